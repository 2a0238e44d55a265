#include "boot.h"
#include "cpu.h"
#include "layout.h"
#include "uart.h"

#define MIB             (1ull << 20)
#define GIB             (1ull << 30)
#define PRESENT_WRITABLE 0x003
#define LARGE            0x080
#define PVH_MAGIC       0x336ec578      /* "xEn3" with bit 7 of the E set */
#define HEADER_MAGIC    0x53726448      /* "HdrS" */

/* hvm_start_info, xen/include/public/arch-x86/hvm/start_info.h */
struct pvh_start_info {
    uint32_t magic, version, flags, modules;
    uint64_t module_list, cmdline, rsdp;
    uint64_t memory_map;                /* from version 1 on */
    uint32_t memory_map_entries, reserved;
};

struct pvh_module {
    uint64_t address, size, cmdline, reserved;
};

struct pvh_memory {
    uint64_t base, size;
    uint32_t type, reserved;
};

/* Offsets into boot_params, Documentation/arch/x86/{boot,zero-page}.rst */
enum {
    BP_RSDP = 0x070,
    BP_EXT_RAMDISK_IMAGE = 0x0c0,
    BP_EXT_RAMDISK_SIZE = 0x0c4,
    BP_EXT_CMDLINE = 0x0c8,
    BP_E820_ENTRIES = 0x1e8,
    BP_BOOT_FLAG = 0x1fe,
    BP_HEADER = 0x202,
    BP_VERSION = 0x206,
    BP_LOADER = 0x210,
    BP_RAMDISK_IMAGE = 0x218,
    BP_RAMDISK_SIZE = 0x21c,
    BP_CMDLINE = 0x228,
    BP_E820_TABLE = 0x2d0,
    E820_ENTRY_SIZE = 20,
};

struct boot boot;

extern uint64_t page_directory_pointers[512];

/* Page directories for CPUs without pages of 1 GiB: each entry is written before it is used. */
#define DIRECTORIES     64
static uint64_t directories[DIRECTORIES][512] __attribute__((aligned(4096), section(".noinit,\"aw\",@nobits#")));
static unsigned directories_used;

bool map_address(uint64_t address)
{
    uint64_t index = address / GIB, *directory;

    if (index >= 512)
        return false;
    if (page_directory_pointers[index] != 0)
        return true;
    if (cpuid(0x80000001, 0).edx & 1 << 26) {
        page_directory_pointers[index] = index * GIB | PRESENT_WRITABLE | LARGE;
        return true;
    }
    if (directories_used == DIRECTORIES)
        return false;
    directory = directories[directories_used++];
    for (uint64_t i = 0; i < 512; i++)
        directory[i] = (index * GIB + i * 2 * MIB) | PRESENT_WRITABLE | LARGE;
    page_directory_pointers[index] = (uint64_t)directory | PRESENT_WRITABLE;
    return true;
}

static void add_region(uint64_t base, uint64_t size, uint32_t type)
{
    if (boot.regions < sizeof boot.region / sizeof boot.region[0])
        boot.region[boot.regions++] = (struct region){base, size, type};
}

static bool refuse(const char *reason, uint64_t value)
{
    line("error");
    put_text("boot", reason);
    put_hex("found", value);
    line_end();
    return false;
}

static bool read_pvh(void)
{
    const struct pvh_start_info *info = at(boot.parameters);

    if (info->magic != PVH_MAGIC)
        return refuse("start-info-magic", info->magic);
    boot.version = info->version;
    boot.cmdline_address = info->cmdline;
    boot.rsdp = info->rsdp;
    if (info->modules != 0) {
        const struct pvh_module *module = at(info->module_list);
        boot.initramfs = (struct region){module->address, module->size, 0};
    }
    if (info->version >= 1) {
        const struct pvh_memory *memory = at(info->memory_map);
        for (uint32_t i = 0; i < info->memory_map_entries; i++)
            add_region(memory[i].base, memory[i].size, memory[i].type);
    }
    return true;
}

static bool read_linux(void)
{
    uint64_t bp = boot.parameters, e820 = bp + BP_E820_TABLE;

    if (read32(bp + BP_HEADER) != HEADER_MAGIC)
        return refuse("setup-header-magic", read32(bp + BP_HEADER));
    if (read16(bp + BP_BOOT_FLAG) != 0xaa55)
        return refuse("boot-flag", read16(bp + BP_BOOT_FLAG));
    boot.version = read16(bp + BP_VERSION);
    boot.loader = read8(bp + BP_LOADER);
    boot.rsdp = read64(bp + BP_RSDP);
    boot.cmdline_address = (uint64_t)read32(bp + BP_EXT_CMDLINE) << 32 | read32(bp + BP_CMDLINE);
    boot.initramfs.base = (uint64_t)read32(bp + BP_EXT_RAMDISK_IMAGE) << 32 | read32(bp + BP_RAMDISK_IMAGE);
    boot.initramfs.size = (uint64_t)read32(bp + BP_EXT_RAMDISK_SIZE) << 32 | read32(bp + BP_RAMDISK_SIZE);
    for (unsigned i = 0; i < read8(bp + BP_E820_ENTRIES); i++, e820 += E820_ENTRY_SIZE)
        add_region(read64(e820), read64(e820 + 8), read32(e820 + 16));
    return true;
}

bool boot_read(uint32_t entry, uint64_t parameters)
{
    boot.entry = entry;
    boot.parameters = parameters;
    if (!(entry == ENTRY_PVH ? read_pvh() : read_linux()))
        return false;
    if (boot.cmdline_address != 0) {
        const char *from = at(boot.cmdline_address);
        for (unsigned i = 0; i + 1 < sizeof boot.cmdline && from[i] != 0; i++)
            boot.cmdline[i] = from[i];
    }
    return true;
}

const char *boot_protocol(void)
{
    switch (boot.entry) {
    case ENTRY_PVH:
        return "pvh";
    case ENTRY_LINUX64:
        return "linux64";
    default:
        return "linux32";
    }
}

void boot_print(void)
{
    line("boot");
    put_text("protocol", boot_protocol());
    put_hex("version", boot.version);
    put_hex("loader", boot.loader);
    put_hex("parameters", boot.parameters);
    put_hex("cmdline", boot.cmdline_address);
    put_hex("rsdp", boot.rsdp);
    put_hex("initramfs", boot.initramfs.base);
    put_hex("initramfs_size", boot.initramfs.size);
    line_end();
    line("cmdline");
    text(" ");
    text(boot.cmdline);
    line_end();
}

/* Adds the words of the file, each rotated in, so that order counts: cheap where code is slow. */
static uint64_t checksum(uint64_t address, uint64_t size)
{
    uint64_t sum = 0, i = 0;

    for (; i + 8 <= size; i += 8)
        sum = (sum << 1 | sum >> 63) + read64(address + i);
    for (; i < size; i++)
        sum = (sum << 1 | sum >> 63) + read8(address + i);
    return sum;
}

void boot_print_ranges(void)
{
    for (unsigned i = 0; i < boot.regions; i++) {
        line("memory");
        put_hex("base", boot.region[i].base);
        put_hex("size", boot.region[i].size);
        put_dec("type", boot.region[i].type);
        line_end();
    }
    if (boot.initramfs.size != 0 && map_address(boot.initramfs.base)) {
        uint64_t size = boot.initramfs.size;

        line("initramfs");
        put_hex("base", boot.initramfs.base);
        put_dec("size", size);
        put_hex("sum", checksum(boot.initramfs.base, size));
        put_bytes("first", at(boot.initramfs.base), size < 8 ? size : 8);
        line_end();
    }
}
