/* What the surroundings tell: time for reports, and whether a descriptor is a terminal. */
#ifndef ES_CLOCK_H
#define ES_CLOCK_H
#include <stdbool.h>
double es_clock_ms(void); /* milliseconds of the monotonic clock, from an arbitrary start */
bool es_terminal(int fd);
#endif
