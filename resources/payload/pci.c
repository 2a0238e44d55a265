#include "pci.h"
#include "acpi.h"
#include "boot.h"
#include "cpu.h"
#include "uart.h"

#define CONFIG_ADDRESS  0xcf8
#define CONFIG_DATA     0xcfc

#define STATUS_CAPABILITIES (1u << 20)  /* in the dword of command and status */

/* Mechanism 1, PCI Local Bus 3.0 section 3.2.2.3.2. */
static uint32_t port_read(uint32_t function, uint32_t offset)
{
    out32(CONFIG_ADDRESS, 1u << 31 | function << 8 | (offset & 0xfc));
    return in32(CONFIG_DATA);
}

static void port_write(uint32_t function, uint32_t offset, uint32_t value)
{
    out32(CONFIG_ADDRESS, 1u << 31 | function << 8 | (offset & 0xfc));
    out32(CONFIG_DATA, value);
}

/* Enhanced mechanism, PCI Express 5.0 section 7.2.2: 4 KiB for each function. */
static uint64_t ecam_base(void)
{
    uint64_t mcfg = acpi_table("MCFG");
    uint64_t base = mcfg == 0 ? 0 : read64(mcfg + 44);

    return base != 0 && map_address(base) ? base : 0;
}

static void print_bars(uint32_t function)
{
    uint32_t command = port_read(function, 4);

    port_write(function, 4, command & 0xfffc);          /* no decoding while they are sized */
    for (uint32_t bar = 0; bar < 6; bar++) {
        uint32_t offset = 0x10 + 4 * bar, low = port_read(function, offset);
        bool io = low & 1, wide = !io && (low & 6) == 4;
        uint64_t value = low, mask;

        port_write(function, offset, ~0u);
        mask = port_read(function, offset) | 0xffffffff00000000;
        port_write(function, offset, low);
        if ((uint32_t)mask == 0)
            continue;
        if (wide) {
            uint32_t high = port_read(function, offset + 4);

            port_write(function, offset + 4, ~0u);
            mask = (uint64_t)port_read(function, offset + 4) << 32 | (uint32_t)mask;
            port_write(function, offset + 4, high);
            value |= (uint64_t)high << 32;
        }
        mask &= io ? ~3ull : ~15ull;
        line("bar");
        put_hex("function", function);
        put_dec("bar", bar);
        put_text("kind", io ? "io" : wide ? "memory64" : "memory32");
        put_hex("base", value & (io ? ~3ull : ~15ull));
        put_hex("size", ~mask + 1);
        line_end();
        bar += wide;
    }
    port_write(function, 4, command & 0xffff);
}

static void print_capabilities(uint32_t function)
{
    uint32_t offset = port_read(function, 0x34) & 0xfc;

    if (!(port_read(function, 4) & STATUS_CAPABILITIES))
        return;
    for (int limit = 48; offset >= 0x40 && limit != 0; limit--) {
        uint32_t head = port_read(function, offset);

        line("capability");
        put_hex("function", function);
        put_hex("offset", offset);
        put_hex("id", head & 0xff);
        put_hex("head", head);
        line_end();
        offset = head >> 8 & 0xfc;
    }
}

static bool ecam_same(uint64_t ecam, uint32_t function)
{
    for (uint32_t offset = 0; offset < 64; offset += 4)
        if (read32(ecam + ((uint64_t)function << 12) + offset) != port_read(function, offset))
            return false;
    return true;
}

void pci_print(void)
{
    uint64_t ecam = ecam_base();
    unsigned found = 0, ecam_found = 0;

    for (uint32_t function = 0; function < 256; function++) {
        uint32_t id = port_read(function, 0);

        if (ecam != 0 && (uint16_t)read32(ecam + ((uint64_t)function << 12)) != 0xffff)
            ecam_found++;
        if ((uint16_t)id == 0xffff) {
            if ((function & 7) == 0)
                function += 7;                  /* no function 0, so no device */
            continue;
        }
        found++;
        line("pci");
        put_hex("function", function);
        put_hex("id", id);
        put_hex("class", port_read(function, 8) >> 8);
        put_hex("subsystem", port_read(function, 0x2c));
        put_hex("command", port_read(function, 4) & 0xffff);
        put_text("ecam", ecam == 0 ? "none" : ecam_same(ecam, function) ? "same" : "differs");
        line_end();
        print_bars(function);
        print_capabilities(function);
        if ((function & 7) == 0 && !(port_read(function, 0xc) & 1u << 23))
            function += 7;                      /* one function only */
    }
    line("bus");
    put_dec("functions", found);
    put_dec("ecam_functions", ecam_found);
    put_hex("ecam", ecam);
    line_end();
}
