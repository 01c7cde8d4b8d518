/* Wall time for reports: monotonic, in milliseconds since an arbitrary start. */
#ifndef ES_CLOCK_H
#define ES_CLOCK_H

double es_clock_ms(void);
#endif
