/*
 * Every way into the payload, and the one way on: payload_main() in long mode.
 *
 *   pvh_entry      32-bit, paging off, EBX = hvm_start_info         (x86/HVM direct boot ABI)
 *   linux_entry32  32-bit, paging off, ESI = boot_params            (Linux boot protocol, "32-bit")
 *   linux_entry64  64-bit, paging on,  RSI = boot_params            (Linux boot protocol, "64-bit")
 *   ap_trampoline  16-bit, from a start-up IPI                      (Intel SDM volume 3, 9.4)
 *
 * Where kernel code is interpreted by KVM's instruction emulator, each instruction counts and a few
 * do not exist (SSE, IRETQ, fences): only plain integer code here, and nothing built at run time
 * that the assembler can build.
 */

#include "layout.h"

#define COM1            0x3f8

#define CR0_PE          (1 << 0)
#define CR0_PG          (1 << 31)
#define CR4_PAE         (1 << 5)
#define MSR_EFER        0xc0000080
#define EFER_LME        (1 << 8)

#define CODE32          0x08
#define CODE64          0x10
#define DATA            0x18

/* The word "hello" at the start of a command line, as two loads see it. */
#define HELL            0x6c6c6568
#define O               'o'

/* ---- 32-bit entry of the Linux protocol: the first byte of the loaded image ---- */

        .section .head, "ax"
        .code32
        .global linux_entry32
linux_entry32:
        movl    0x228(%esi), %eax               /* boot_params.hdr.cmd_line_ptr */
        movl    $ENTRY_LINUX32, %edi
        jmp     common32

/* ---- 64-bit entry of the Linux protocol: 0x200 bytes into the loaded image ---- */

        .org    0x200
        .code64
        .global linux_entry64
linux_entry64:
        cli
        cld
        movl    0x228(%rsi), %eax               /* low half; the high half is 0 below 4 GiB */
        testl   %eax, %eax
        jz      1f
        cmpl    $HELL, (%rax)
        jne     1f
        cmpb    $O, 4(%rax)
        jne     1f
        movl    $COM1, %edx
        movl    $'H', %eax
        outb    %al, %dx
1:      lgdt    gdt_pointer
        movl    $page_map, %eax                 /* the loader's tables end where it likes */
        movq    %rax, %cr3
        movl    $boot_stack_top, %esp
        movl    $ENTRY_LINUX64, %edi
        pushq   $CODE64
        pushq   $start64
        lretq

/* ---- PVH ---- */

        .text
        .code32
        .global pvh_entry
pvh_entry:
        movl    %ebx, %esi
        movl    24(%ebx), %eax                  /* hvm_start_info.cmdline_paddr, low half */
        movl    $ENTRY_PVH, %edi

common32:
        cli
        cld
        testl   %eax, %eax
        jz      1f
        cmpl    $HELL, (%eax)
        jne     1f
        cmpb    $O, 4(%eax)
        jne     1f
        movl    $COM1, %edx
        movl    $'H', %eax
        outb    %al, %dx
1:      movl    $boot_stack_top, %esp
        call    long_mode
        ljmp    $CODE64, $start64

/* Turns paging and long mode on; the caller's far jump then enters 64-bit code. */
long_mode:
        lgdt    gdt_pointer
        movl    %cr4, %eax
        orl     $CR4_PAE, %eax
        movl    %eax, %cr4
        movl    $page_map, %eax
        movl    %eax, %cr3
        movl    $MSR_EFER, %ecx
        rdmsr
        orl     $EFER_LME, %eax
        wrmsr
        movl    %cr0, %eax
        orl     $(CR0_PG | CR0_PE), %eax
        movl    %eax, %cr0
        ret

/* ---- long mode: EDI = which entry, ESI = its parameter block ---- */

        .code64
start64:
        movl    $DATA, %eax
        movl    %eax, %ds
        movl    %eax, %es
        movl    %eax, %ss
        movl    %eax, %fs
        movl    %eax, %gs
        lidt    idt_pointer
        movl    %edi, %ebx
        movl    %esi, %esi
        movl    $bss_start, %edi                /* after a reset memory holds the last run */
        movl    $bss_words, %ecx
        xorl    %eax, %eax
        rep stosq
        movl    %ebx, %edi
        call    payload_main
halt:   hlt
        jmp     halt

/* ---- application processors: copied to a page below 1 MiB, entered at its offset 0 ---- */

        .global ap_trampoline, ap_trampoline_end
        .code16
ap_trampoline:
        cli
        cld
        movw    %cs, %ax
        movw    %ax, %ds
        lgdtl   (ap_gdt_pointer - ap_trampoline)
        movl    %cr0, %eax
        orl     $CR0_PE, %eax
        movl    %eax, %cr0
        ljmpl   $CODE32, $ap_start32            /* the rest runs where it was linked */
ap_gdt_pointer:
        .word   gdt_end - gdt - 1
        .long   gdt
ap_trampoline_end:

        .code32
ap_start32:
        movl    $DATA, %eax
        movl    %eax, %ds
        movl    %eax, %es
        movl    %eax, %ss
        movl    $1, %ebx
        lock xaddl %ebx, ap_next                /* who comes first is CPU 1, and so on */
        movl    %ebx, %eax
        incl    %eax
        shll    $STACK_SHIFT, %eax
        leal    ap_stacks(%eax), %esp           /* CPU n's stack ends at (n + 1) << STACK_SHIFT */
        call    long_mode
        ljmp    $CODE64, $ap_start64

        .code64
ap_start64:
        movl    $DATA, %eax
        movl    %eax, %fs
        movl    %eax, %gs
        lidt    idt_pointer
        movl    %ebx, %edi
        call    ap_main
        jmp     halt

/* ---- tables ---- */

        .section .rodata
        .global idt_pointer
idt_pointer:                                    /* an empty IDT: a fault is a triple fault */
        .word   0
        .quad   0
gdt_pointer:
        .word   gdt_end - gdt - 1
        .quad   gdt

        .data
        .balign 8
gdt:    .quad   0
        .quad   0x00cf9b000000ffff              /* CODE32: 4 GiB, execute and read, accessed */
        .quad   0x00af9b000000ffff              /* CODE64 */
        .quad   0x00cf93000000ffff              /* DATA */
gdt_end:

/* The first 4 GiB one to one in 2 MiB pages. map_address() adds what lies above. */
#define PRESENT_WRITABLE 0x003
#define LARGE            0x080

        .balign 4096
        .global page_map, page_directory_pointers
page_map:
        .quad   page_directory_pointers + PRESENT_WRITABLE
        .fill   511, 8, 0
page_directory_pointers:
        .quad   page_directories + 0x0000 + PRESENT_WRITABLE
        .quad   page_directories + 0x1000 + PRESENT_WRITABLE
        .quad   page_directories + 0x2000 + PRESENT_WRITABLE
        .quad   page_directories + 0x3000 + PRESENT_WRITABLE
        .fill   508, 8, 0
page_directories:
        .set    address, 0
        .rept   2048
        .quad   address + PRESENT_WRITABLE + LARGE
        .set    address, address + 0x200000
        .endr

        .section .noinit, "aw", @nobits
        .balign 16
boot_stack:
        .skip   0x4000
boot_stack_top:
        .global ap_stacks
ap_stacks:
        .skip   MAX_CPUS << STACK_SHIFT

        .section .note.GNU-stack, "", @progbits
