/* How fast the TSC counts. */
#ifndef CLOCK_H
#define CLOCK_H

#include <stdint.h>

/* In kHz; 0 where nothing tells. `source` names what told. */
uint64_t clock_tsc_khz(const char **source);
void clock_print(void);

#endif
