/* Numbers that the assembly and the C code share. */
#ifndef LAYOUT_H
#define LAYOUT_H

#define LOAD_ADDRESS    0x100000        /* where a bzImage is loaded: code32_start */

#define ENTRY_PVH       1
#define ENTRY_LINUX64   2
#define ENTRY_LINUX32   3

#define MAX_CPUS        64
#define STACK_SHIFT     12              /* 4 KiB for each application processor */

#endif
