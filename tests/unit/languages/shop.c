#include <stddef.h>

/* Has a price. */
struct item {
    int price;
    struct item *next;
};

typedef struct {
    struct item *first;
} basket;
#define LIMIT 10

/* Sums prices. */
static int
basket_total(const basket *b)
{
    int sum = 0;
    for (struct item *i = b->first; i; i = i->next)
        sum += i->price;
    return sum;
}
