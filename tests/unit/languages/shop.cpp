#include <vector>

namespace shop {

// Holds prices.
template <class T>
class Basket {
  public:
    int total() const { return sum; }

  private:
    int sum = 0;
    void add(T price);
};

template <class T>
T largest(const T &a, const T &b) {
    return a < b ? b : a;
}

} // namespace shop
void shop::Basket<int>::add(int price) {
    sum += price;
}
