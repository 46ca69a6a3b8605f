import { tax } from "./tax.js";
const LIMIT = 10;

/** Sums prices. */
export function total(prices) {
  return prices.reduce((sum, price) => sum + price, 0);
}

// What a customer carries.
export default class Basket extends Array {
  #open = true;

  add(price) {
    this.push(price);
  }

  size = () => {
    return this.length;
  };
}
export const pay = async (basket) => {
  return tax(total(basket));
};

Basket.prototype.clear = function () {
  this.length = 0;
};
