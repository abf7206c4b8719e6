package syslog

import (
	"context"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// drained waits until the other machine has confirmed every byte that was
// written: until the send queue is empty (SIOCOUTQ, tcp(7)).
func drained(ctx context.Context, c *net.TCPConn, deadline time.Time) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	for {
		left, lerr := 0, error(nil)
		if err := raw.Control(func(fd uintptr) { left, lerr = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) }); err != nil {
			return err
		}
		switch {
		case lerr != nil:
			return lerr
		case left == 0:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case time.Now().After(deadline):
			return os.ErrDeadlineExceeded
		}
		time.Sleep(time.Millisecond)
	}
}
