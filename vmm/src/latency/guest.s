# The measuring guest: an ELF image of one segment, loaded at {load} and entered in 64-bit
# mode on each vCPU with RSI at that vCPU's block (guest.rs has its layout and the reasons).
#
# R15 block   R14 mode: 0 TSC-deadline, 1 one-shot   R13 period   R12 the deadline, in ticks

    .section .rodata.godwit_latency_guest, "a", @progbits
    .balign 16
    .globl godwit_latency_guest
    .hidden godwit_latency_guest
    .globl godwit_latency_guest_end
    .hidden godwit_latency_guest_end

godwit_latency_guest:
    # Elf64_Ehdr
    .byte 0x7f, 0x45, 0x4c, 0x46, 2, 1, 1, 0
    .quad 0
    .short 2, 62
    .long 1
    .quad {load} + (.Lgodwit_latency_entry - godwit_latency_guest)
    .quad 64, 0
    .long 0
    .short 64, 56, 1, 0, 0, 0
    # Elf64_Phdr: PT_LOAD, readable, writable, executable
    .long 1, 7
    .quad 0, {load}, {load}
    .quad godwit_latency_guest_end - godwit_latency_guest
    .quad godwit_latency_guest_end - godwit_latency_guest
    .quad 0x1000

.Lgodwit_latency_entry:
    cli
    cld
    mov r15, rsi
    lidt [rip + .Lgodwit_latency_idt_pointer]

    # Every page of the ring is touched here, so that no sample pays for one.
    lea rdi, [r15 + {ring}]
    mov ecx, {ring_entries}
    xor eax, eax
    rep stosq

    # x2APIC: an end of interrupt is one WRMSR, which KVM serves without decoding.
    mov eax, 1
    cpuid
    bt ecx, 21
    jnc .Lgodwit_latency_no_x2apic
    mov ecx, 0x1b
    rdmsr
    or eax, 0xc00
    wrmsr
    xor edx, edx
    mov ecx, 0x80f
    mov eax, 0x1ff
    wrmsr
    # LINT0 is masked: KVM leaves the old interrupt controller connected to it.
    mov ecx, 0x835
    mov eax, 0x10000
    wrmsr

    mov r13, [r15 + {period}]
    mov r14, [r15 + {mode}]
    mov ecx, 0x83e
    mov eax, 0xb
    wrmsr
    mov eax, {vector}
    test r14, r14
    jnz 1f
    or eax, 0x40000
1:  mov ecx, 0x832
    wrmsr
    # The mode must be set before the first deadline is (Intel SDM 3A, 12.5.4.1): CPUID
    # serializes.
    xor eax, eax
    cpuid
    mov qword ptr [r15 + {state}], {state_runs}
    rdtsc
    shl rdx, 32
    or rax, rdx
    lea r12, [rax + r13]
    jmp .Lgodwit_latency_arm

.Lgodwit_latency_timer:
    # First of all: what time is it?
    rdtsc
    shl rdx, 32
    or rax, rdx
    sub rax, r12
    mov rcx, [r15 + {head}]
    mov rdx, rcx
    sub rdx, [r15 + {tail}]
    cmp rdx, {ring_entries}
    jae 2f
    mov edx, ecx
    and edx, {ring_entries} - 1
    mov [r15 + rdx * 8 + {ring}], rax
    # Stores of a processor are seen in their order: the sample, then the head.
    add rcx, 1
    mov [r15 + {head}], rcx
    jmp 3f
2:  add qword ptr [r15 + {lost}], 1
3:  add r12, r13
    rdtsc
    shl rdx, 32
    or rax, rdx
    sub rax, r12
    jb .Lgodwit_latency_arm
    # The next deadline has passed already, and maybe more.
    xor edx, edx
    div r13
    add rax, 1
    add [r15 + {missed}], rax
    imul rax, r13
    add r12, rax

.Lgodwit_latency_arm:
    test r14, r14
    jnz 4f
    mov rax, r12
    mov rdx, r12
    shr rdx, 32
    mov ecx, 0x6e0
    wrmsr
    jmp 6f
4:  rdtsc
    shl rdx, 32
    or rax, rdx
    mov rcx, r12
    sub rcx, rax
    ja 5f
    mov ecx, 1
5:  mov rax, rcx
    mul qword ptr [r15 + {scale}]
    shrd rax, rdx, 32
    # A count of 0 would stop the timer.
    or eax, 1
    xor edx, edx
    mov ecx, 0x838
    wrmsr
6:  # End of interrupt; before the first one it has no effect.
    xor eax, eax
    xor edx, edx
    mov ecx, 0x80b
    wrmsr

    # No IRET: what was interrupted is one of the two loops below, which keep nothing on the
    # stack and in no register that is used above. A KVM that interprets the guest's kernel
    # knows no IRET outside real mode.
    lea rsp, [r15 + {stack}]
    cmp qword ptr [r15 + {wait}], 0
    jne 8f
7:  sti
    hlt
    jmp 7b
8:  sti
9:  pause
    jmp 9b

.Lgodwit_latency_no_x2apic:
    mov qword ptr [r15 + {state}], {state_no_x2apic}
    jmp 7b

    # Interrupt gates, as far as the timer's. An exception finds none that is present: a double
    # fault, then a shutdown, which KVM tells.
    .balign 16
.Lgodwit_latency_idt:
    .fill {vector} * 16, 1, 0
    .short .Lgodwit_latency_timer - godwit_latency_guest, {code}, 0x8e00, {load} >> 16
    .quad 0
.Lgodwit_latency_idt_pointer:
    .short {vector} * 16 + 15
    .quad {load} + (.Lgodwit_latency_idt - godwit_latency_guest)
godwit_latency_guest_end:
    .text
