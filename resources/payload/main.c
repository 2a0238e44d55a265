/*
 * The order of things: say hello, read what the loader handed over, print what was asked for, fill
 * memory, then go round one loop that dirties, verifies, beats and listens, and end as asked.
 */
#include "acpi.h"
#include "boot.h"
#include "clock.h"
#include "cpu.h"
#include "layout.h"
#include "memory.h"
#include "options.h"
#include "pci.h"
#include "smp.h"
#include "uart.h"

#define LISTEN_EVERY    16      /* turns of the loop: reading the line status costs an exit */

static uint64_t beats, turns, longest_gap;

static void report(void)
{
    line("report");
    put_dec("turns", turns);
    put_dec("beats", beats);
    put_dec("dirtied", memory_counters.dirtied);
    put_dec("verified", memory_counters.verified);
    put_dec("passes", memory_counters.passes);
    put_dec("mismatches", memory_counters.mismatches);
    put_dec("longest_gap", longest_gap);
    put_dec("tsc", rdtsc());
    line_end();
    longest_gap = 0;
}

static _Noreturn void triple_fault(void)
{
    extern const char idt_pointer[];

    /* #DE with an empty IDT: #DF, then shutdown. Not UD2, which KVM's emulator refuses to decode. */
    __asm__ volatile("lidt (%0)\n\txorl %%ecx, %%ecx\n\tdivl %%ecx" : : "r"(idt_pointer) : "eax", "ecx", "edx");
    halt_forever();
}

static _Noreturn void finish(enum end end)
{
    static const char *const names[] = {"halt", "poweroff", "reset", "reset8042", "triple"};

    line("end");
    put_text("by", names[end]);
    line_end_quiet();
    smp_stop();
    switch (end) {
    case END_HALT:
        halt_forever();
    case END_POWEROFF:
        acpi_poweroff();
        break;
    case END_RESET:
        acpi_reset();
        break;
    case END_RESET_8042:
        out8(0x64, 0xfe);               /* pulse the CPU's reset line */
        break;
    case END_TRIPLE:
        triple_fault();
    }
    for (int i = 0; i < 100000; i++)
        pause();
    line("error");
    put_text("still_running_after", names[end]);
    line_end();
    halt_forever();
}

/* Input: echoed, or with `control` taken as a command of one letter. */
static void listen(void)
{
    char byte;

    while (uart_get(&byte)) {
        if (!options.control) {
            uart_put(byte);
            continue;
        }
        switch (byte) {
        case 'v':
            memory_verify_all();
            memory_print("verified");
            break;
        case 's':
            report();
            break;
        case 'h':
            finish(END_HALT);
        case 'o':
            finish(END_POWEROFF);
        case 'r':
            finish(END_RESET);
        case 't':
            finish(END_TRIPLE);
        }
    }
}

/* Ticks from one page to the next at options.rate pages a second; 0: as fast as it goes. */
static uint64_t dirty_interval(void)
{
    const char *source;
    uint64_t khz;

    if (options.rate == 0)
        return 0;
    khz = clock_tsc_khz(&source);
    if (khz == 0) {
        line("error");
        put_text("rate", "unknown-tsc-frequency-give-tsc_khz");
        line_end();
    }
    return khz * 1000 / options.rate;
}

static void go_round(void)
{
    uint64_t interval = dirty_interval(), now = rdtsc(), due = now, last, passes = 0, until_beat = options.beat_every;
    bool several = options.smp > 1;

    while (beats < options.beats) {
        turns++;
        last = now;
        now = rdtsc();
        if (now - last > longest_gap)
            longest_gap = now - last;
        if (options.dirty != 0 && interval == 0) {
            memory_dirty(options.dirty);
        } else if (options.dirty != 0 && now - due < 1ull << 63) {
            uint64_t pages = (now - due) / interval + 1;

            if (pages > options.dirty)
                pages = options.dirty;
            memory_dirty(pages);
            due += pages * interval;
            if (now - due < 1ull << 63 && now - due > 1000 * interval)
                due = now;              /* too slow, or stopped for long: not made up for */
        }
        if (options.verify) {
            memory_verify(options.pages);
            if (memory_counters.passes != passes) {
                passes = memory_counters.passes;
                memory_print("pass");
            }
        }
        if (--until_beat == 0) {
            until_beat = options.beat_every;
            if (several)
                beat(smp_mark(0), smp_beat(beats));
            else
                beat(0, (char)('a' + beats % 26));
            beats++;
        }
        if ((options.echo || options.control) && turns % LISTEN_EVERY == 0)
            listen();
        if (options.report != 0 && turns % options.report == 0)
            report();
    }
}

static void settle_options(void)
{
    if ((options.end_given || options.hello) && options.beats == UINT64_MAX)
        options.beats = 0;              /* an end, and no word on when: at once */
    if (options.beat_every == 0)
        options.beat_every = 1;
    if (options.pages == 0)
        options.pages = 1;
    if (options.sweep)
        options.words = true;
    if (options.dirty != 0 && options.over == 0)
        options.over = options.fill;
    if (options.fill == 0 && options.over == 0)
        options.dirty = options.verify = options.verify_once = false;
}

void payload_main(uint32_t entry, uint64_t parameters)
{
    bool filled = true;

    if (!boot_read(entry, parameters))
        finish(END_HALT);
    if (boot.cmdline[0] == 'h' && boot.cmdline[1] == 'e')
        text("ello\n");                 /* the H went out at the entry */
    uart_setup();
    boot_print();
    options_parse(boot.cmdline);
    settle_options();
    if (options.facts || options.pci || options.smp > 1 || options.end != END_HALT || options.control)
        acpi_setup();
    if (options.facts) {
        boot_print_ranges();
        clock_print();
        acpi_print();
    }
    if (options.facts || options.smp > 1)
        smp_start(options.smp);
    if (options.pci)
        pci_print();
    if (options.outs) {
        line("outs ");
        uart_write("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", 36);
        line_end();
    }
    if (options.fill != 0 || options.over != 0)
        filled = memory_fill();
    if (!filled)
        finish(END_HALT);
    if (options.verify_once) {
        memory_verify_all();
        memory_print("verified");
    }
    if (options.beats != 0)
        smp_go();
    go_round();
    if (options.verify_once) {
        memory_verify_all();            /* once more: what the loop dirtied */
        memory_print("verified");
    }
    if (options.report != 0)
        report();
    finish(options.end);
}
