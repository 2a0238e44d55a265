#include "options.h"
#include "cpu.h"
#include "uart.h"

struct options options;

static const struct {
    const char *key;
    bool *flag;
} flags[] = {
    {"hello", &options.hello},     {"facts", &options.facts},   {"pci", &options.pci},
    {"outs", &options.outs},       {"echo", &options.echo},     {"control", &options.control},
    {"verify", &options.verify},   {"words", &options.words},   {"sparse", &options.sparse},
    {"sweep", &options.sweep},
};

static const struct {
    const char *key;
    enum end end;
} ends[] = {
    {"halt", END_HALT},           {"poweroff", END_POWEROFF}, {"reset", END_RESET},
    {"reset8042", END_RESET_8042}, {"triple", END_TRIPLE},
};

static const struct {
    const char *key;
    uint64_t *value;
} values[] = {
    {"beats", &options.beats},   {"beat_every", &options.beat_every}, {"fill", &options.fill},
    {"at", &options.at},         {"seed", &options.seed},             {"lines", &options.lines},
    {"dirty", &options.dirty},   {"over", &options.over},             {"rate", &options.rate},
    {"pages", &options.pages},   {"report", &options.report},         {"smp", &options.smp},
    {"tsc_khz", &options.tsc_khz},
};

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static bool same(const char *a, const char *b)
{
    while (*a != 0 && *a == *b)
        a++, b++;
    return *a == *b;
}

/* Decimal or 0x…, with K, M or G after it. */
static bool number(const char *s, uint64_t *value)
{
    uint64_t base = 10, n = 0;
    const char *start;

    if (s[0] == '0' && (s[1] == 'x' || s[1] == 'X'))
        base = 16, s += 2;
    for (start = s;; s++) {
        char c = *s | 0x20;
        uint64_t d = base == 16 && c >= 'a' && c <= 'f' ? c - 'a' + 10ull : (uint64_t)*s - '0';
        if (d >= base)
            break;
        n = n * base + d;
    }
    if (s == start)
        return false;
    switch (*s) {
    case 'K': n <<= 10, s++; break;
    case 'M': n <<= 20, s++; break;
    case 'G': n <<= 30, s++; break;
    }
    *value = n;
    return *s == 0;
}

static bool parse_word(char *word)
{
    char *value = word;

    while (*value != 0 && *value != '=')
        value++;
    if (*value == 0) {
        for (unsigned i = 0; i < COUNT(flags); i++)
            if (same(word, flags[i].key))
                return *flags[i].flag = true;
        for (unsigned i = 0; i < COUNT(ends); i++)
            if (same(word, ends[i].key)) {
                options.end = ends[i].end;
                return options.end_given = true;
            }
        return same(word, "beat");      /* the default: naming it changes nothing */
    }
    *value++ = 0;
    if (same(word, "verify") && same(value, "once"))
        return options.verify_once = true;
    for (unsigned i = 0; i < COUNT(values); i++)
        if (same(word, values[i].key))
            return number(value, values[i].value);
    return false;
}

void options_parse(char *cmdline)
{
    options = (struct options){
        .beats = UINT64_MAX, .beat_every = 1, .at = 16 << 20, .seed = 1, .lines = 64, .pages = 1, .smp = 1,
    };
    while (*cmdline != 0) {
        char *word = cmdline;

        while (*cmdline != 0 && *cmdline != ' ')
            cmdline++;
        if (*cmdline != 0)
            *cmdline++ = 0;
        if (*word != 0 && !parse_word(word)) {
            line("ignored");
            put_text("word", word);
            line_end();
        }
    }
}
