/* The instructions that C has no words for. */
#ifndef CPU_H
#define CPU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline uint8_t in8(uint16_t port)
{
    uint8_t value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static inline uint32_t in32(uint16_t port)
{
    uint32_t value;
    __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static inline void out8(uint16_t port, uint8_t value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static inline void out16(uint16_t port, uint16_t value)
{
    __asm__ volatile("outw %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static inline void out32(uint16_t port, uint32_t value)
{
    __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

/* One string instruction: a VMM sees a single exit that carries `count` bytes. */
static inline void out8_string(uint16_t port, const void *bytes, size_t count)
{
    __asm__ volatile("rep outsb" : "+S"(bytes), "+c"(count) : "d"(port) : "memory");
}

struct cpuid {
    uint32_t eax, ebx, ecx, edx;
};

static inline struct cpuid cpuid(uint32_t leaf, uint32_t subleaf)
{
    struct cpuid r;
    __asm__ volatile("cpuid"
                     : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx)
                     : "a"(leaf), "c"(subleaf));
    return r;
}

static inline uint64_t rdtsc(void)
{
    uint32_t low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (uint64_t)high << 32 | low;
}

static inline uint64_t rdmsr(uint32_t index)
{
    uint32_t low, high;
    __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(index));
    return (uint64_t)high << 32 | low;
}

static inline void wrmsr(uint32_t index, uint64_t value)
{
    __asm__ volatile("wrmsr" : : "a"((uint32_t)value), "d"((uint32_t)(value >> 32)), "c"(index) : "memory");
}

static inline void pause(void)
{
    __asm__ volatile("pause" ::: "memory");
}

static inline _Noreturn void halt_forever(void)
{
    for (;;)
        __asm__ volatile("cli; hlt" ::: "memory");
}

/* The string instructions: where code is interpreted they move 1,024 items per decode. */

static inline void copy_words(uint64_t *to, const uint64_t *from, size_t words)
{
    __asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(words) : : "memory");
}

static inline void fill_words(uint64_t *to, uint64_t value, size_t words)
{
    __asm__ volatile("rep stosq" : "+D"(to), "+c"(words) : "a"(value) : "memory");
}

/* How many of the first `words` words are equal. */
static inline size_t equal_words(const uint64_t *a, const uint64_t *b, size_t words)
{
    size_t left = words;
    bool equal;

    if (words == 0)
        return 0;
    __asm__ volatile("repe cmpsq" : "+D"(a), "+S"(b), "+c"(left), "=@ccz"(equal) : : "memory");
    return equal ? words : words - left - 1;
}

/* How many of the first `words` words are `value`. */
static inline size_t words_of(const uint64_t *a, uint64_t value, size_t words)
{
    size_t left = words;
    bool equal;

    if (words == 0)
        return 0;
    __asm__ volatile("repe scasq" : "+D"(a), "+c"(left), "=@ccz"(equal) : "a"(value) : "memory");
    return equal ? words : words - left - 1;
}

/* Physical memory is mapped one to one, so an address is a pointer. */
static inline void *at(uint64_t address)
{
    return (void *)address;
}

static inline uint8_t read8(uint64_t address)
{
    return *(volatile uint8_t *)address;
}

static inline uint16_t read16(uint64_t address)
{
    return *(volatile uint16_t *)address;
}

static inline uint32_t read32(uint64_t address)
{
    return *(volatile uint32_t *)address;
}

static inline uint64_t read64(uint64_t address)
{
    return *(volatile uint64_t *)address;
}

#endif
