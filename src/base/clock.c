/* The monotonic clock (clock_gettime(2)); it cannot fail for CLOCK_MONOTONIC on Linux. */
#include "base/clock.h"

#include <time.h>
#include <unistd.h>

double es_clock_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec * 1e3 + (double)now.tv_nsec * 1e-6;
}

bool es_terminal(int fd) { return isatty(fd) == 1; }
