#include "smp.h"
#include "acpi.h"
#include "boot.h"
#include "cpu.h"
#include "layout.h"
#include "options.h"
#include "uart.h"

#define MSR_APIC_BASE   0x1b
#define APIC_X2APIC     (1u << 10)
#define APIC_ENABLED    (1u << 11)
#define MSR_X2APIC_ICR  0x830
#define XAPIC_ICR_LOW   0x300
#define XAPIC_ICR_HIGH  0x310

#define ICR_INIT        0x4500          /* assert, INIT */
#define ICR_STARTUP     0x4600          /* assert, start-up; the vector is the page's number */

#define PATIENCE        20000000000ull  /* TSC ticks: seconds, even at 5 GHz */

extern const char ap_trampoline[], ap_trampoline_end[];

/* The trampoline counts here who came. */
uint32_t ap_next;

static uint32_t apic_ids[MAX_CPUS];
static uint64_t running = 1, trampoline;

static volatile uint32_t described;     /* other CPUs that have printed themselves */
static volatile bool going, stopping;

static bool has_x2apic(void)
{
    return cpuid(1, 0).ecx & 1u << 21;
}

static uint32_t apic_id(void)
{
    return cpuid(0, 0).eax >= 0xb && cpuid(0xb, 0).ebx != 0 ? cpuid(0xb, 0).edx : cpuid(1, 0).ebx >> 24;
}

/* To x2APIC mode where there is one, so that identifiers above 255 can be addressed. */
static void enable_apic(void)
{
    uint64_t base = rdmsr(MSR_APIC_BASE) | APIC_ENABLED;

    wrmsr(MSR_APIC_BASE, has_x2apic() ? base | APIC_X2APIC : base);
}

static void send(uint32_t destination, uint32_t command)
{
    if (has_x2apic()) {
        wrmsr(MSR_X2APIC_ICR, (uint64_t)destination << 32 | command);
        return;
    }
    uint64_t apic = rdmsr(MSR_APIC_BASE) & 0xffffff000;
    *(volatile uint32_t *)(apic + XAPIC_ICR_HIGH) = destination << 24;
    *(volatile uint32_t *)(apic + XAPIC_ICR_LOW) = command;
}

static void print_leaf(uint64_t cpu, uint32_t leaf, uint32_t subleaf)
{
    struct cpuid r = cpuid(leaf, subleaf);

    line("cpuid");
    put_dec("cpu", cpu);
    put_hex("leaf", leaf);
    put_dec("subleaf", subleaf);
    put_hex("eax", r.eax);
    put_hex("ebx", r.ebx);
    put_hex("ecx", r.ecx);
    put_hex("edx", r.edx);
    line_end();
}

static void describe(uint64_t cpu)
{
    uint32_t max = cpuid(0, 0).eax;

    line("cpu");
    put_dec("cpu", cpu);
    put_dec("apic", apic_id());
    put_text("mode", rdmsr(MSR_APIC_BASE) & APIC_X2APIC ? "x2apic" : "xapic");
    put_hex("max_leaf", max);
    line_end();
    print_leaf(cpu, 1, 0);
    if (max >= 4)
        for (uint32_t i = 0; i < 8 && (cpuid(4, i).eax & 31) != 0; i++)
            print_leaf(cpu, 4, i);
    for (uint32_t leaf = 0xb; leaf <= 0x1f; leaf += 0x14)
        if (max >= leaf)
            for (uint32_t i = 0; i < 8 && (cpuid(leaf, i).ecx >> 8 & 0xff) != 0; i++)
                print_leaf(cpu, leaf, i);
}

static uint64_t index_of(uint32_t apic)
{
    uint64_t cpu = 1;

    while (cpu + 1 < MAX_CPUS && apic_ids[cpu] != apic)
        cpu++;
    return cpu;
}

/*
 * Entered from the trampoline on the CPU's own stack, twice: to print itself, and to beat. In between
 * it halts, because a host with fewer CPUs would run those that wait instead of the one that prints.
 */
void ap_main(uint32_t nth)
{
    uint64_t cpu = nth + 1, n = 0;

    enable_apic();
    if (!going) {
        apic_ids[cpu] = apic_id();
        describe(cpu);
        described = described + 1;       /* one at a time: the next is started when this is seen */
        halt_forever();
    }
    cpu = index_of(apic_id());           /* they may come in another order this time */
    for (uint64_t wait = 0; !stopping; wait++)
        if (wait % options.beat_every == 0)
            beat(smp_mark(cpu), smp_beat(n++));
    halt_forever();
}

/* A page of usable memory below 1 MiB that a start-up IPI can name. */
static uint64_t trampoline_page(void)
{
    for (uint64_t page = 0x8000; page < 0x9f000; page += 0x1000) {
        if (boot.rsdp >> 12 == page >> 12)
            continue;
        for (unsigned i = 0; i < boot.regions; i++) {
            const struct region *r = &boot.region[i];
            if (r->type == MEMORY_USABLE && page >= r->base && page + 0x1000 <= r->base + r->size)
                return page;
        }
    }
    return 0;
}

static void send_to_trampoline(uint32_t apic)
{
    send(apic, ICR_INIT);
    send(apic, ICR_STARTUP | (uint32_t)(trampoline >> 12));
}

static bool start_one(uint32_t apic, uint64_t expected)
{
    uint64_t started = rdtsc();

    send_to_trampoline(apic);
    while (described != expected) {
        if (rdtsc() - started > PATIENCE) {
            line("error");
            put_dec("cpu_did_not_start", apic);
            line_end();
            return false;
        }
        pause();
    }
    return true;
}

/* MADT, ACPI 6.5 sections 5.2.12.2 and 5.2.12.12: the enabled CPUs, in the table's order. */
static uint64_t start_listed(uint64_t count)
{
    uint64_t madt = acpi_table("APIC"), started = 1;
    uint64_t end = madt == 0 ? 0 : madt + read32(madt + 4);

    for (uint64_t e = madt + 44; madt != 0 && e + 2 <= end && started < count; e += read8(e + 1)) {
        uint32_t apic, enabled;

        if (read8(e + 1) < 2)
            break;
        if (read8(e) == 0)
            apic = read8(e + 3), enabled = read32(e + 4) & 1;
        else if (read8(e) == 9)
            apic = read32(e + 4), enabled = read32(e + 8) & 1;
        else
            continue;
        if (!enabled || apic == apic_id())
            continue;
        if (!start_one(apic, started))
            break;
        started++;
    }
    return started;
}

void smp_start(uint64_t count)
{
    trampoline = trampoline_page();
    enable_apic();
    describe(0);
    if (count > MAX_CPUS)
        count = MAX_CPUS;
    if (trampoline != 0 && count > 1) {
        for (size_t i = 0; i < (size_t)(ap_trampoline_end - ap_trampoline); i++)
            ((volatile char *)trampoline)[i] = ap_trampoline[i];
        running = start_listed(count);
    }
    line("smp");
    put_dec("wanted", count);
    put_dec("running", running);
    put_hex("trampoline", trampoline);
    line_end();
}

void smp_go(void)
{
    ap_next = 0;
    going = true;
    for (uint64_t cpu = 1; cpu < running; cpu++)
        send_to_trampoline(apic_ids[cpu]);
}

void smp_stop(void)
{
    stopping = true;
}

char smp_mark(uint64_t index)
{
    return (char)('0' + index);
}

char smp_beat(uint64_t n)
{
    return (char)('p' + n % 15);
}
