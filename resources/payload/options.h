/* The command line: words, each `key` or `key=value`. README.md has the list. */
#ifndef OPTIONS_H
#define OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

enum end { END_HALT, END_POWEROFF, END_RESET, END_RESET_8042, END_TRIPLE };

struct options {
    bool hello, facts, pci, outs, echo, control, verify, verify_once;
    enum end end;
    bool end_given;
    uint64_t beats, beat_every;
    uint64_t fill, at, seed, lines;
    uint64_t dirty, over, rate, pages, report;
    bool words;                 /* dirty only a page's generation, not all of it */
    bool sweep;                 /* dirty pages in address order, by a loop of four instructions */
    bool sparse;                /* what `lines` leaves of a page is neither zeroed nor verified */
    uint64_t smp, tsc_khz;
};

extern struct options options;

/* Unknown words are printed as @ignored: a loader may add its own. */
void options_parse(char *cmdline);

#endif
