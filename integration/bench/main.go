// Command bench measures what Keyhole costs over the bare token: raw loops
// of C_Sign and C_Encrypt, a bare HTTPS handler over the same token, and the
// gateway with TLS, JWT, policy and durable audit, all in one run, in turn.
//
// It prints a table of medians and ratios and writes them as JSON. Absolute
// figures depend on the machine; the ratios are what to compare. Run it by
// `make bench`.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop was called
	}
}

func run(ctx context.Context) error {
	d := flag.Duration("duration", 5*time.Second, "how long each rival works at a time")
	rounds := flag.Int("rounds", 3, "how often each rival has its turn; the median counts")
	only := flag.String("rows", "", "regular expression of the rows to measure; empty: all")
	out := flag.String("out", "", "JSON file for the results; empty: none")
	commit := flag.String("commit", "unknown", "what is measured, for the JSON file")
	bin := flag.String("bin", "bin", "directory of the built keyholed")
	rotations := flag.Bool("rotation", false, "measure what rotations cost the data plane, and nothing else")
	many := flag.Int("keys", 1000, "with -rotation: how many keys are due at once")
	memory := flag.String("memory", "/dev/shm", "directory on a memory file system, for what the audit log's disk costs")
	role := flag.String("role", "", "internal: what a child process does")
	flag.Parse()
	if *role != "" {
		return child(*role)
	}
	chosen, err := selectRows(*only)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "keyhole-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	arena, err := startArena(ctx, filepath.Join(*bin, "keyholed"), filepath.Join(dir, "gateway"))
	if err != nil {
		return err
	}
	defer arena.stop()
	if err := arena.checkGateway(ctx); err != nil {
		return err
	}
	if *rotations {
		rows, err := rotationBench(ctx, arena, *many, 4**d, 12**d)
		if err != nil {
			return err
		}
		return printRotations(os.Stdout, *out, rows)
	}
	all := newResults(*commit)
	for _, r := range chosen.rows {
		fmt.Fprintf(os.Stderr, "%s: %d rounds of 3 x %s\n", r.name, *rounds, *d)
		res, err := arena.measure(ctx, r, *rounds, *d)
		if err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
		all.Rows = append(all.Rows, res)
	}
	for _, r := range chosen.curves {
		fmt.Fprintf(os.Stderr, "%s: %d rounds of %d x %s\n", r.name, *rounds, 2*len(loads), *d)
		c, err := arena.curve(ctx, r, *rounds, *d)
		if err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
		all.Curves = append(all.Curves, c)
	}
	if len(chosen.costs) > 0 {
		fmt.Fprintf(os.Stderr, "what the audit log costs: %d rounds of %d x %s\n", *rounds, 2*len(chosen.costs), *d)
		if all.Audit, err = arena.auditCost(ctx, filepath.Join(*bin, "keyholed"), *memory, chosen.costs, *rounds, *d); err != nil {
			return fmt.Errorf("what the audit log costs: %w", err)
		}
	}
	all.print(os.Stdout)
	if *out == "" {
		return nil
	}
	return all.write(*out)
}
