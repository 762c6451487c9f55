/* What the tests of src/base share. */
#ifndef BASE_FIXTURE_H
#define BASE_FIXTURE_H

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
/* cmocka wants those above first */
#include <cmocka.h>

#define ONLY(f)                                                                                                        \
    {                                                                                                                  \
#f, f, NULL, NULL, NULL                                                                                        \
    }

#endif
