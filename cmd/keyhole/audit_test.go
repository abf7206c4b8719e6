package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"keyhole/audit"
	"keyhole/audit/audittest"
)

// makeLog makes a log of 40 records in five segments in dir: one a minute
// from 2026-03-01 12:00 on, by alice, of which each tenth, from 4 on, is a
// denial of mallory. Its last checkpoint vouches for all of it; the one
// returned for the first 20.
func makeLog(ctx context.Context, dir string, v *audittest.Voucher) (kept []byte, err error) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	l, err := audit.Open(audit.Config{Dir: dir, Node: "n", SegmentSize: 1500, SegmentAge: time.Hour * 24 * 365, Now: func() time.Time { return at }})
	if err != nil {
		return nil, err
	}
	for i := range 40 {
		r := audit.Record{RequestID: fmt.Sprintf("r%d", i), Principal: "jwt:corp:alice", Action: "sign", Key: "payments", KeyID: "payments.v1", Outcome: audit.OutcomeOK}
		if i%10 == 4 {
			r = audit.Record{RequestID: fmt.Sprintf("r%d", i), Principal: "jwt:corp:mallory", Action: "decrypt", Key: "mail", Outcome: audit.OutcomeDenied, Reason: "forbidden"}
		}
		if _, err := l.Append(ctx, r); err != nil {
			return nil, err
		}
		if i == 19 {
			if kept, _, err = l.Checkpoint(v); err != nil {
				return nil, err
			}
		}
		at = at.Add(time.Minute)
	}
	_, _, err = l.Checkpoint(v)
	return kept, errors.Join(err, l.Close())
}

func auditlog(ts *testscript.TestScript, _ bool, args []string) {
	v, err := audittest.NewVoucher()
	ts.Check(err)
	kept, err := makeLog(context.Background(), ts.MkAbs(args[0]), v)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs("kept.checkpoint"), kept, 0o600))
	ts.Check(os.WriteFile(ts.MkAbs("audit-keys.pem"), v.Keys.Marshal(), 0o600))
	other, err := audittest.NewVoucher()
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs("other-keys.pem"), other.Keys.Marshal(), 0o600))
}

func alter(ts *testscript.TestScript, _ bool, args []string) {
	text := ts.ReadFile(args[0])
	if !strings.Contains(text, args[1]) {
		ts.Fatalf("%s does not have %q", args[0], args[1])
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(strings.Replace(text, args[1], args[2], 1)), 0o600))
}

func drop(ts *testscript.TestScript, _ bool, args []string) {
	lines := strings.SplitAfter(ts.ReadFile(args[0]), "\n")
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	if n > 0 {
		lines = slices.Delete(lines, n-1, n)
	} else {
		lines = lines[:len(lines)-1+n] // there is nothing behind the last newline
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(strings.Join(lines, "")), 0o600))
}
