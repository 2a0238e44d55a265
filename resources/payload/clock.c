#include "clock.h"
#include "cpu.h"
#include "options.h"
#include "uart.h"

#define HYPERVISOR_LEAF     0x40000000
#define KVM_FEATURES        0x40000001
#define TIMING_LEAF         0x40000010
#define FEATURE_CLOCK2      (1u << 3)
#define MSR_KVM_CLOCK       0x4b564d01

/* struct pvclock_vcpu_time_info, Documentation/virt/kvm/x86/msr.rst */
static struct {
    uint32_t version, pad;
    uint64_t tsc_timestamp, system_time;
    uint32_t tsc_to_system_mul;
    int8_t tsc_shift;
    uint8_t flags, pad2[2];
} kvm_clock __attribute__((aligned(32)));

/* nanoseconds = (ticks << shift) * mul >> 32, solved for the ticks of a millisecond */
static uint64_t kvm_clock_khz(void)
{
    uint64_t khz;

    wrmsr(MSR_KVM_CLOCK, (uint64_t)&kvm_clock | 1);
    cpuid(0, 0);                        /* an exit at the latest: KVM writes it on entry */
    wrmsr(MSR_KVM_CLOCK, 0);
    if (((volatile uint32_t *)&kvm_clock)[0] == 0 || kvm_clock.tsc_to_system_mul == 0)
        return 0;
    khz = (1000000ull << 32) / kvm_clock.tsc_to_system_mul;
    return kvm_clock.tsc_shift < 0 ? khz << -kvm_clock.tsc_shift : khz >> kvm_clock.tsc_shift;
}

static bool is_kvm(void)
{
    struct cpuid r = cpuid(HYPERVISOR_LEAF, 0);

    return r.ebx == 0x4b4d564b && r.ecx == 0x564b4d56 && r.edx == 0x4d;        /* KVMKVMKVM */
}

uint64_t clock_tsc_khz(const char **source)
{
    bool hypervisor = cpuid(1, 0).ecx & 1u << 31;
    struct cpuid ratio;

    *source = "cmdline";
    if (options.tsc_khz != 0)
        return options.tsc_khz;
    *source = "leaf40000010";
    if (hypervisor && cpuid(HYPERVISOR_LEAF, 0).eax >= TIMING_LEAF && cpuid(TIMING_LEAF, 0).eax != 0)
        return cpuid(TIMING_LEAF, 0).eax;
    *source = "leaf15";
    if (cpuid(0, 0).eax >= 0x15) {
        ratio = cpuid(0x15, 0);
        if (ratio.eax != 0 && ratio.ebx != 0 && ratio.ecx != 0)
            return (uint64_t)ratio.ecx * ratio.ebx / ratio.eax / 1000;
    }
    *source = "kvmclock";
    if (hypervisor && is_kvm() && cpuid(KVM_FEATURES, 0).eax & FEATURE_CLOCK2)
        return kvm_clock_khz();
    *source = "none";
    return 0;
}

void clock_print(void)
{
    bool hypervisor = cpuid(1, 0).ecx & 1u << 31;
    const char *source;
    uint64_t khz = clock_tsc_khz(&source);

    line("hypervisor");
    put_dec("present", hypervisor);
    if (hypervisor) {
        struct cpuid r = cpuid(HYPERVISOR_LEAF, 0);
        char name[13] = {0};

        for (int i = 0; i < 12; i++) {
            char c = (char)((i < 4 ? r.ebx : i < 8 ? r.ecx : r.edx) >> 8 * (i & 3));
            if (c > ' ' && c <= '~')
                name[i] = c;
            else
                break;
        }
        put_text("signature", name);
        put_hex("max_leaf", r.eax);
        r = cpuid(KVM_FEATURES, 0);
        put_hex("features", r.eax);
        put_hex("hints", r.edx);
    }
    line_end();
    line("tsc");
    put_dec("khz", khz);
    put_text("source", source);
    put_dec("invariant", cpuid(0x80000007, 0).edx >> 8 & 1);
    put_dec("now", rdtsc());
    line_end();
}
