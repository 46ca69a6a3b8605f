import { Component } from "core";

/** Has a price. */
export interface Item {
  price: number;
}

@Component({ name: "basket" })
export abstract class Basket<T extends Item> {
  private items: T[] = [];

  abstract total(): number;

  // Puts something in.
  add = (item: T): void => {
    this.items.push(item);
  };
}
export enum Kind {
  Book,
}

export const isFree = <T extends Item>(item: T): boolean => {
  return item.price === 0;
};
