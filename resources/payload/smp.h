/* The other CPUs: started, described, and beating. */
#ifndef SMP_H
#define SMP_H

#include <stdint.h>

/* Prints this CPU's topology leaves, then starts CPUs 1 to count - 1 one after the other. */
void smp_start(uint64_t count);

/* Lets them beat; ends them. */
void smp_go(void);
void smp_stop(void);

/* The byte of CPU `index`'s beat number `n`: see README.md. */
char smp_mark(uint64_t index);
char smp_beat(uint64_t n);

#endif
