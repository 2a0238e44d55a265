#include "memory.h"
#include "boot.h"
#include "cpu.h"
#include "options.h"
#include "uart.h"

#define PAGE            4096ull
#define WORDS           512             /* in a page */
#define HEADER          2               /* tag and generation */
#define GIB             (1ull << 30)

struct memory_counters memory_counters;

extern char image_end[];

/* The pages of the area: the usable regions from options.at up, without the initramfs. */
static struct extent {
    uint64_t base, pages;
} extents[16];
static unsigned extent_count;
static uint64_t area_pages;

static uint64_t words_used;             /* of each page; the rest is 0 */
static uint64_t table[2 * WORDS];

/* The order of dirtying: place k of a turn is page k * stride mod turn. */
static uint64_t turn;                   /* pages that are dirtied, from the area's first */
static uint64_t stride;
static uint64_t dirty_place, dirty_page, dirty_turns;
static uint64_t verify_place, verify_page;

/* The finalizer of splitmix64. */
static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
}

static uint64_t *page_at(uint64_t page)
{
    const struct extent *e = extents;

    while (page >= e->pages)
        page -= e++->pages;
    return at(e->base + page * PAGE);
}

static const uint64_t *window(const uint64_t *page, uint64_t generation)
{
    return table + (((uint64_t)page / PAGE * 0x9e37 ^ generation * 0x5bd1) & (WORDS - 1));
}

static void write_page(uint64_t *page, uint64_t generation)
{
    page[0] = mix(options.seed ^ (uint64_t)page);
    page[1] = generation;
    copy_words(page + HEADER, window(page, generation) + HEADER, words_used - HEADER);
}

static bool mismatch(const uint64_t *page, uint64_t word, uint64_t expected, uint64_t generation)
{
    if (memory_counters.mismatches++ != 0)
        return false;
    line("mismatch");
    put_hex("address", (uint64_t)(page + word));
    put_hex("expected", expected);
    put_hex("found", page[word]);
    put_dec("word", word);
    put_dec("generation", generation);
    line_end();
    return false;
}

static bool verify_one(const uint64_t *page, uint64_t generation)
{
    uint64_t tag = mix(options.seed ^ (uint64_t)page), equal;
    const uint64_t *body = window(page, options.words ? 0 : generation);

    if (page[0] != tag)
        return mismatch(page, 0, tag, generation);
    if (page[1] != generation)
        return mismatch(page, 1, generation, generation);
    equal = HEADER + equal_words(page + HEADER, body + HEADER, words_used - HEADER);
    if (equal != words_used)
        return mismatch(page, equal, body[equal], generation);
    if (options.sparse)
        return true;
    equal = words_used + words_of(page + words_used, 0, WORDS - words_used);
    return equal == WORDS || mismatch(page, equal, 0, generation);
}

static bool refuse(const char *reason, uint64_t value)
{
    line("error");
    put_text("fill", reason);
    put_hex("value", value);
    line_end();
    return false;
}

static void add_extent(uint64_t base, uint64_t end)
{
    base = (base + PAGE - 1) & -PAGE;
    end &= -PAGE;
    if (base >= end || extent_count == sizeof extents / sizeof extents[0])
        return;
    extents[extent_count++] = (struct extent){base, (end - base) / PAGE};
}

/* Takes usable memory in the map's order until there is enough. */
static bool lay_out(uint64_t from, uint64_t size)
{
    uint64_t hole = boot.initramfs.base, hole_end = hole + boot.initramfs.size;

    if (from < (uint64_t)image_end)
        return refuse("overlaps-payload", from);
    for (unsigned i = 0; i < boot.regions; i++) {
        uint64_t base = boot.region[i].base, end = base + boot.region[i].size;

        if (boot.region[i].type != MEMORY_USABLE)
            continue;
        base = base < from ? from : base;
        if (hole < hole_end && hole < end && hole_end > base) {
            add_extent(base, hole);
            base = hole_end;
        }
        add_extent(base, end);
    }
    area_pages = 0;
    for (unsigned i = 0; i < extent_count; i++) {
        uint64_t left = size / PAGE - area_pages, base = extents[i].base;

        if (left == 0) {
            extent_count = i;           /* the rest is not needed */
            break;
        }
        if (extents[i].pages > left)
            extents[i].pages = left;
        area_pages += extents[i].pages;
        for (uint64_t a = base & -GIB; a < base + extents[i].pages * PAGE; a += GIB)
            if (!map_address(a))
                return refuse("cannot-map", a);
    }
    if (area_pages != size / PAGE)
        return refuse("only-this-much-memory", area_pages * PAGE);
    return true;
}

static uint64_t common_divisor(uint64_t a, uint64_t b)
{
    while (b != 0) {
        uint64_t rest = a % b;
        a = b, b = rest;
    }
    return a;
}

bool memory_fill(void)
{
    uint64_t started, size = options.fill > options.over ? options.fill : options.over;

    words_used = (options.lines - 1 < 64 ? options.lines : 64) * 8;
    for (unsigned i = 0; i < 2 * WORDS; i++)
        table[i] = mix(options.seed + 0x9e3779b97f4a7c15 * (i + 1ull));
    if (!lay_out(options.at, size))
        return false;
    turn = options.over != 0 ? options.over / PAGE : area_pages;
    stride = options.sweep ? 1 : turn * 5 / 8 | 1;
    while (common_divisor(turn, stride) > 1)
        stride += 2;

    started = rdtsc();
    for (uint64_t page = 0; page < area_pages; page++) {
        uint64_t *words = page_at(page);

        write_page(words, 0);
        if (!options.sparse)
            fill_words(words + words_used, 0, WORDS - words_used);
    }
    line("filled");
    put_hex("base", extents[0].base);
    put_dec("pages", area_pages);
    put_dec("extents", extent_count);
    put_dec("seed", options.seed);
    put_dec("ticks", rdtsc() - started);
    line_end();
    return true;
}

/* Pages from this one to the end of its extent. */
static uint64_t pages_in_a_row(uint64_t page)
{
    const struct extent *e = extents;

    while (page >= e->pages)
        page -= e++->pages;
    return e->pages - page;
}

/* A run of pages at a time: where code is interpreted, all else would cost more than the writes. */
static void sweep(uint64_t pages)
{
    while (pages != 0) {
        uint64_t run = pages_in_a_row(dirty_page), generation = dirty_turns + 1;
        uint64_t *word = page_at(dirty_page) + 1;

        run = run < pages ? run : pages;
        run = run < turn - dirty_page ? run : turn - dirty_page;
        for (uint64_t left = run; left != 0; left--, word += WORDS)
            *word = generation;
        memory_counters.dirtied += run;
        pages -= run;
        dirty_place = dirty_page += run;
        if (dirty_page == turn)
            dirty_place = dirty_page = 0, dirty_turns++;
    }
}

void memory_dirty(uint64_t pages)
{
    if (options.sweep) {
        sweep(pages);
        return;
    }
    for (; pages != 0; pages--) {
        uint64_t *page = page_at(dirty_page);

        if (options.words)
            page[1] = dirty_turns + 1;
        else
            write_page(page, dirty_turns + 1);
        memory_counters.dirtied++;
        dirty_page += stride;
        while (dirty_page >= turn)
            dirty_page -= turn;
        if (++dirty_place == turn)
            dirty_place = 0, dirty_turns++;
    }
}

void memory_verify(uint64_t pages)
{
    for (; pages != 0; pages--) {
        uint64_t generation = verify_place < turn ? dirty_turns + (verify_place < dirty_place) : 0;

        verify_one(page_at(verify_page), generation);
        memory_counters.verified++;
        if (++verify_place < turn) {
            verify_page += stride;
            while (verify_page >= turn)
                verify_page -= turn;
        } else {
            verify_page = verify_place;         /* what is never dirtied follows in order */
        }
        if (verify_place >= area_pages) {
            verify_place = verify_page = 0;
            memory_counters.passes++;
        }
    }
}

void memory_verify_all(void)
{
    verify_place = verify_page = 0;
    memory_verify(area_pages);
}

void memory_print(const char *topic)
{
    line(topic);
    put_dec("pages", area_pages);
    put_dec("dirtied", memory_counters.dirtied);
    put_dec("verified", memory_counters.verified);
    put_dec("passes", memory_counters.passes);
    put_dec("mismatches", memory_counters.mismatches);
    line_end();
}
