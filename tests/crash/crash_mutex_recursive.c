/* SPDX-License-Identifier: MIT
 *
 * As crash_mutex.c, for a recursive mutex, on a segment that threads share.
 */
#include "driver_lock.h"

int main(int argc, char **argv)
{
    (void)argc;
    crash_init(argv);
    crash_lock_all(crash_lock_of_mutex("recursive", true));
    return crash_report();
}
