package shop

import "fmt"

// Basket holds prices.
type Basket struct {
	prices []int
}

// Add puts something in.
func (b *Basket) Add(price int) {
	b.prices = append(b.prices, price)
}

// Total sums what is in a basket.
func Total(b *Basket) int {
	sum := 0
	for _, p := range b.prices {
		sum += p
	}
	return sum
}
