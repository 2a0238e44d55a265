/* What the loader handed over, the same whatever the protocol was. */
#ifndef BOOT_H
#define BOOT_H

#include <stdbool.h>
#include <stdint.h>

#define MEMORY_USABLE   1       /* the E820 type, which PVH shares */

struct region {
    uint64_t base, size;
    uint32_t type;
};

struct boot {
    uint32_t entry;             /* ENTRY_* of layout.h */
    uint64_t parameters;        /* hvm_start_info or boot_params */
    uint32_t version;           /* of hvm_start_info, or of the boot protocol */
    uint32_t loader;            /* boot_params.hdr.type_of_loader */
    uint64_t cmdline_address;
    char cmdline[2048];         /* a copy: low memory is reused for the trampoline */
    struct region initramfs;    /* size 0: none */
    uint64_t rsdp;              /* as handed over; 0: not handed over */
    unsigned regions;
    struct region region[128];
};

extern struct boot boot;

/* Reads it; false with a printed @error when it is not what the protocol says. */
bool boot_read(uint32_t entry, uint64_t parameters);
const char *boot_protocol(void);

/* @boot and @cmdline; @memory and @initramfs. */
void boot_print(void);
void boot_print_ranges(void);

/* Maps the 1 GiB around an address. False from 512 GiB on, or from the 64th without 1 GiB pages. */
bool map_address(uint64_t address);

#endif
