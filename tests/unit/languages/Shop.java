package shop;

import java.util.List;

/** Holds prices. */
public class Shop {
    private final List<Integer> prices;
    public Shop(List<Integer> prices) {
        this.prices = prices;
    }

    /** Sums them. */
    @Override
    public int total() {
        return prices.stream().mapToInt(p -> p).sum();
    }

    enum Kind {
        BOOK
    }

    record Item(int price) {
    }
}
