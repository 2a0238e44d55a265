/* Bus 0, as both configuration mechanisms show it. */
#ifndef PCI_H
#define PCI_H

void pci_print(void);

#endif
