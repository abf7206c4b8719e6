package harden

/*
#include <stdlib.h>
#include <string.h>

extern char **environ;

// wipe overwrites the values of a variable where the kernel put them.
static void wipe(const char *name) {
	size_t n = strlen(name);
	for (char **e = environ; e && *e; e++)
		if (strncmp(*e, name, n) == 0 && (*e)[n] == '=')
			memset(*e + n + 1, 0, strlen(*e + n + 1));
}
*/
import "C"

import "unsafe"

// HideEnv overwrites the value of an environment variable as the process was
// started with it: /proc/PID/environ does not show it any more, nor do the C
// library and what it loads see it. Go copied its environment before, so that
// os.Getenv returns what it did; programs that are started get it too, unless
// their environment is given. Call it before other threads use the
// environment.
func HideEnv(name string) {
	n := C.CString(name)
	defer C.free(unsafe.Pointer(n))
	C.wipe(n)
}
