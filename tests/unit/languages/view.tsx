import React from "react";
const title = "Shop";

export const View = ({ price }: { price: number }) => {
  return <b title={title}>{price}</b>;
};

class Page extends React.Component {
  render() {
    return <View price={1} />;
  }
}
