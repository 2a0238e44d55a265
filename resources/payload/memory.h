/*
 * A pattern over memory that can be verified while it is being changed.
 *
 *   word 0      a tag of the seed and the page's address: a page in a wrong place shows
 *   word 1      the page's generation: how often it was dirtied; a lost write shows
 *   the rest    a window of a table of random words, placed by address and generation
 *
 * Pages are dirtied in a fixed order that jumps about, so the generation that a page must have
 * follows from two counters, and there is no table of generations that could be lost with it.
 */
#ifndef MEMORY_H
#define MEMORY_H

#include <stdbool.h>
#include <stdint.h>

struct memory_counters {
    uint64_t dirtied;           /* pages written since the fill */
    uint64_t verified;          /* pages compared */
    uint64_t passes;            /* times that all pages were compared */
    uint64_t mismatches;        /* pages that were not as expected; the first is printed */
};

extern struct memory_counters memory_counters;

/* Fills what options.fill and options.at name. False, with an @error, when that is not all RAM. */
bool memory_fill(void);
void memory_dirty(uint64_t pages);
void memory_verify(uint64_t pages);
void memory_verify_all(void);
void memory_print(const char *topic);

#endif
