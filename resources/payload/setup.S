/*
 * The front of the bzImage: setup header and real-mode code, two sectors.
 * Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header".
 *
 * A VMM that uses the 64-bit protocol reads the header and runs none of this code. Loaders that
 * start in real mode (QEMU's option ROM, GRUB's linux16) jump to offset 0x200; the few lines there
 * do what a kernel's setup does: make boot_params, ask the BIOS for the memory map, and enter at
 * the image's 32-bit entry.
 */

#include "layout.h"

#define PARAMETERS      0x7000          /* boot_params, in the page that boot sectors leave free */
#define E820_ENTRIES    0x1e8
#define E820_TABLE      0x2d0
#define E820_MAX        128
#define SMAP            0x534d4150

        .section .setup, "ax"
        .code16
        .org    0x1f1
header:
        .byte   1                       /* setup_sects, after the boot sector */
        .word   0                       /* root_flags */
        .long   image_paragraphs        /* syssize: of the rest of the file */
        .word   0                       /* ram_size */
        .word   0xffff                  /* vid_mode: normal */
        .word   0                       /* root_dev */
        .word   0xaa55                  /* boot_flag */
        .byte   0xeb, start - 0x202     /* jump */
        .ascii  "HdrS"
        .word   0x020f                  /* version 2.15 */
        .long   0                       /* realmode_swtch */
        .word   0                       /* start_sys_seg */
        .word   name - 0x200            /* kernel_version */
        .byte   0                       /* type_of_loader: the loader writes it */
        .byte   0x01                    /* loadflags: LOADED_HIGH */
        .word   0                       /* setup_move_size */
        .long   LOAD_ADDRESS            /* code32_start */
        .long   0, 0                    /* ramdisk_image, ramdisk_size */
        .long   0                       /* bootsect_kludge */
        .word   0                       /* heap_end_ptr */
        .byte   0, 0                    /* ext_loader_ver, ext_loader_type */
        .long   0                       /* cmd_line_ptr */
        .long   0x7fffffff              /* initrd_addr_max */
        .long   0x1000                  /* kernel_alignment */
        .byte   0                       /* relocatable_kernel: linked where it is loaded */
        .byte   12                      /* min_alignment */
        .word   0x0003                  /* xloadflags: KERNEL_64, CAN_BE_LOADED_ABOVE_4G */
        .long   2047                    /* cmdline_size */
        .long   0                       /* hardware_subarch */
        .quad   0                       /* hardware_subarch_data */
        .long   0, 0                    /* payload_offset, payload_length: nothing compressed */
        .quad   0                       /* setup_data */
        .quad   LOAD_ADDRESS            /* pref_address */
        .long   image_memory            /* init_size */
        .long   0                       /* handover_offset: not an EFI stub */
        .long   0                       /* kernel_info_offset */
header_end:

start:
        cli
        cld
        movw    %cs, %ax                /* CS is the loader's segment plus 0x20 */
        subw    $0x20, %ax
        movw    %ax, %ds
        xorw    %ax, %ax
        movw    %ax, %es
        movw    %ax, %ss
        movl    $PARAMETERS, %esp
        movl    $PARAMETERS, %edi       /* an empty boot_params, then the header as it was filled in */
        movw    $2048, %cx
        rep stosw
        movl    $header, %esi
        movl    $(PARAMETERS + 0x1f1), %edi
        movw    $(header_end - header), %cx
        rep movsb

        xorl    %ebx, %ebx              /* the memory map: INT 15h, AX=E820h */
        movl    $(PARAMETERS + E820_TABLE), %edi
1:      movl    $0xe820, %eax
        movl    $SMAP, %edx
        movl    $20, %ecx
        int     $0x15
        jc      2f
        cmpl    $SMAP, %eax
        jne     2f
        addw    $20, %di
        incb    %es:(PARAMETERS + E820_ENTRIES)
        cmpb    $E820_MAX, %es:(PARAMETERS + E820_ENTRIES)
        je      2f
        testl   %ebx, %ebx
        jnz     1b

2:      cli
        xorl    %eax, %eax              /* the GDT's linear address */
        movw    %ds, %ax
        shll    $4, %eax
        addl    $flat_gdt, %eax
        movl    %eax, flat_gdt_pointer + 2
        lgdtl   flat_gdt_pointer
        movl    %cr0, %eax
        orl     $1, %eax
        movl    %eax, %cr0
        movw    $0x18, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movl    $PARAMETERS, %esi
        ljmpl   $0x10, $LOAD_ADDRESS

        .balign 8
flat_gdt:
        .quad   0, 0
        .quad   0x00cf9b000000ffff      /* 0x10 and 0x18 are the protocol's __BOOT_CS and __BOOT_DS */
        .quad   0x00cf93000000ffff
flat_gdt_pointer:
        .word   31
        .long   0
name:   .asciz  "godwit-payload"
        .org    0x400

        .section .note.GNU-stack, "", @progbits
