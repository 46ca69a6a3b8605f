use std::fmt;

/// Holds prices.
#[derive(Debug)]
pub struct Basket<T> {
    prices: Vec<T>,
}

impl<T: Into<u32> + Copy> Basket<T> {
    pub fn total(&self) -> u32 {
        self.prices.iter().map(|p| (*p).into()).sum()
    }
}

// Has a price.
pub trait Priced {
    fn price(&self) -> u32;
}
#[cfg(test)]
mod tests {
    #[test]
    fn empty() {
        assert_eq!(0, 0);
    }
}
