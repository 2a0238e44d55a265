/* The ACPI tables: found, checked, and used to end the machine. */
#ifndef ACPI_H
#define ACPI_H

#include <stdint.h>

/* Walks RSDP, XSDT or RSDT, FADT and DSDT. */
void acpi_setup(void);
void acpi_print(void);

/* The address of the first table with this signature, 0 when there is none. */
uint64_t acpi_table(const char signature[4]);

/* Both return only when the tables name no register for it, or writing it did nothing. */
void acpi_poweroff(void);
void acpi_reset(void);

#endif
