#include "acpi.h"
#include "boot.h"
#include "cpu.h"
#include "uart.h"

#define HEADER_SIZE     36
#define TABLE_LIMIT     (1u << 20)      /* a longer table is taken for a broken length field */

#define SIGNATURE(a, b, c, d) ((uint32_t)(a) | (uint32_t)(b) << 8 | (uint32_t)(c) << 16 | (uint32_t)(d) << 24)

/* Offsets into the FADT, ACPI 6.5 table 5.9 */
enum {
    FADT_DSDT = 40,
    FADT_PM1A_CONTROL = 64,
    FADT_FLAGS = 112,
    FADT_RESET_REGISTER = 116,
    FADT_RESET_VALUE = 128,
    FADT_X_DSDT = 140,
    FADT_SLEEP_CONTROL = 244,
};
#define FLAG_RESET_REGISTER     (1u << 10)
#define FLAG_HARDWARE_REDUCED   (1u << 20)

static struct table {
    uint64_t address;
    uint32_t signature, length;
    bool valid;
} tables[32];
static unsigned table_count;
static uint64_t rsdp;
static const char *rsdp_source;
static bool rsdp_valid;

static bool sums_to_zero(uint64_t address, uint32_t length)
{
    uint8_t sum = 0;

    while (length-- != 0)
        sum += read8(address++);
    return sum == 0;
}

static bool is_rsdp(uint64_t address)
{
    return read32(address) == SIGNATURE('R', 'S', 'D', ' ') && read32(address + 4) == SIGNATURE('P', 'T', 'R', ' ');
}

/* Where the BIOS would have left it, ACPI 6.5 section 5.2.5.1: the last 128 KiB below 1 MiB. */
static uint64_t scan(void)
{
    for (uint64_t a = 0xe0000; a < 0x100000; a += 16)
        if (is_rsdp(a))
            return a;
    return 0;
}

static void add(uint64_t address)
{
    struct table *t = &tables[table_count];

    if (address == 0 || table_count == sizeof tables / sizeof tables[0] || !map_address(address))
        return;
    t->address = address;
    t->signature = read32(address);
    t->length = read32(address + 4);
    t->valid = t->length >= HEADER_SIZE && t->length <= TABLE_LIMIT && sums_to_zero(address, t->length);
    table_count++;
}

static uint32_t length_of(uint64_t table)
{
    return read32(table + 4);
}

void acpi_setup(void)
{
    uint64_t root, fadt;
    uint32_t width;

    rsdp = boot.rsdp;
    rsdp_source = "loader";
    if (rsdp == 0 || !is_rsdp(rsdp)) {
        rsdp = scan();
        rsdp_source = "scan";
    }
    if (rsdp == 0) {
        rsdp_source = "none";
        return;
    }
    rsdp_valid = sums_to_zero(rsdp, 20);
    root = read32(rsdp + 16), width = 4;
    if (read8(rsdp + 15) >= 2) {
        rsdp_valid = rsdp_valid && sums_to_zero(rsdp, 36);
        root = read64(rsdp + 24), width = 8;
    }
    add(root);
    if (table_count == 0 || !tables[0].valid)
        return;
    for (uint32_t i = HEADER_SIZE; i + width <= length_of(root); i += width)
        add(width == 8 ? read64(root + i) : read32(root + i));
    fadt = acpi_table("FACP");
    if (fadt != 0) {
        bool wide = length_of(fadt) >= FADT_X_DSDT + 8 && read64(fadt + FADT_X_DSDT) != 0;
        add(wide ? read64(fadt + FADT_X_DSDT) : read32(fadt + FADT_DSDT));
    }
}

uint64_t acpi_table(const char s[4])
{
    for (unsigned i = 0; i < table_count; i++)
        if (tables[i].valid && tables[i].signature == SIGNATURE(s[0], s[1], s[2], s[3]))
            return tables[i].address;
    return 0;
}

void acpi_print(void)
{
    unsigned invalid = rsdp_valid ? 0 : 1;

    line("rsdp");
    put_text("from", rsdp_source);
    put_hex("address", rsdp);
    if (rsdp != 0) {
        put_dec("revision", read8(rsdp + 15));
        put_text("sum", rsdp_valid ? "ok" : "bad");
    }
    line_end();
    for (unsigned i = 0; i < table_count; i++) {
        const struct table *t = &tables[i];
        char name[5] = {0};

        for (int c = 0; c < 4; c++) {
            char letter = (char)(t->signature >> 8 * c);
            name[c] = letter > ' ' && letter <= '~' ? letter : '?';
        }
        line("acpi");
        put_text("signature", name);
        put_hex("address", t->address);
        put_dec("length", t->length);
        put_dec("revision", read8(t->address + 8));
        put_text("sum", t->valid ? "ok" : "bad");
        line_end();
        invalid += !t->valid;
    }
    line("tables");
    put_dec("count", table_count);
    put_dec("invalid", invalid);
    line_end();
}

/* A generic address structure, ACPI 6.5 section 5.2.3.2: memory or port, one byte. */
static void write_register(uint64_t gas, uint8_t value)
{
    uint64_t address = read64(gas + 4);

    if (read8(gas) == 1)
        out8((uint16_t)address, value);
    else if (address != 0 && map_address(address))
        *(volatile uint8_t *)address = value;
}

/* SLP_TYP of \_S5, the first integer in its package: AML, ACPI 6.5 sections 7.4.2 and 20.2. */
static bool s5_type(uint8_t *type)
{
    uint64_t dsdt = acpi_table("DSDT");
    uint64_t end = dsdt == 0 ? 0 : dsdt + length_of(dsdt);

    for (uint64_t a = dsdt + HEADER_SIZE; dsdt != 0 && a + 8 <= end; a++) {
        if (read32(a) != SIGNATURE('_', 'S', '5', '_') || read8(a + 4) != 0x12)
            continue;
        a += 5;
        a += (read8(a) >> 6) + 2;               /* PkgLength, then NumElements */
        *type = read8(a) == 0x0a ? read8(a + 1) : read8(a);     /* BytePrefix, ZeroOp or OneOp */
        return true;
    }
    return false;
}

void acpi_poweroff(void)
{
    uint64_t fadt = acpi_table("FACP");
    uint8_t type;

    if (fadt == 0 || !s5_type(&type))
        return;
    if (read32(fadt + FADT_FLAGS) & FLAG_HARDWARE_REDUCED)
        write_register(fadt + FADT_SLEEP_CONTROL, (uint8_t)(type << 2 | 1 << 5));
    else
        out16((uint16_t)read32(fadt + FADT_PM1A_CONTROL), (uint16_t)(type << 10 | 1 << 13));
}

void acpi_reset(void)
{
    uint64_t fadt = acpi_table("FACP");

    if (fadt != 0 && read32(fadt + FADT_FLAGS) & FLAG_RESET_REGISTER)
        write_register(fadt + FADT_RESET_REGISTER, read8(fadt + FADT_RESET_VALUE));
}
