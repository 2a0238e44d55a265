/*
 * The PVH note: what makes a loader enter at pvh_entry. Linked into the PVH image only, so that the
 * other ELF image is one that can be booted by nothing but the Linux protocol.
 * XEN_ELFNOTE_PHYS32_ENTRY, xen/include/public/elfnote.h
 */
        .section .note.Xen, "a", @note
        .balign 4
        .long   4                               /* name size */
        .long   8                               /* descriptor size */
        .long   18                              /* XEN_ELFNOTE_PHYS32_ENTRY */
        .asciz  "Xen"
        .quad   pvh_entry

        .section .note.GNU-stack, "", @progbits
