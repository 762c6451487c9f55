/* What libsodium has answered once it need not compute again: signatures and Diffie-Hellman of one input have one
 * answer, the same for every device of a run, and for every copy of a process (tests/engine/every_failure.c). A program
 * that is linked with the --wrap options of tests/sim/CMakeLists.txt asks here; what it sees is the same, in half the
 * time. */
#ifndef SIM_MEMO_H
#define SIM_MEMO_H

/* Before the first fork and the first signature: processes that are forked later share what any of them learns, as long
 * as one of them runs at a time. */
void memo_init(void);

#endif
