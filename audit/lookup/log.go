package lookup

import (
	"context"
	"errors"
	"fmt"

	"keyhole/audit"
	"keyhole/audit/merkle"
	"keyhole/audit/verify"
	"keyhole/keys"
)

// Config is what a Log needs. All of it is required.
type Config struct {
	Dir string
	Log *audit.Log // that is in Dir
	// Vouch signs a checkpoint of the log as it is now; Keys returns the file
	// of the public audit keys.
	Vouch func(ctx context.Context) (signed []byte, err error)
	Keys  func() []byte
}

// Log shows the log of a gateway that runs. Its methods are safe for
// concurrent use. Errors are of package keys.
type Log struct{ c Config }

// New returns a Log.
func New(c Config) *Log { return &Log{c} }

// Newest is the function Newest, of what is durable. before 0 is the end of
// the log.
func (l *Log) Newest(ctx context.Context, f Filter, before uint64, limit int) (Page, error) {
	// What was not acknowledged may be cut from the files again.
	if size := l.c.Log.Size(); before == 0 || before > size {
		before = size
	}
	p, err := Newest(ctx, l.c.Dir, f, before, limit)
	return p, unreadable(ctx, err)
}

// Checkpoint returns the last checkpoint, signed, or with fresh one of the
// log as it is now. Errors: keys.ErrNotFound (there is none yet), and those
// of signing.
func (l *Log) Checkpoint(ctx context.Context, fresh bool) ([]byte, error) {
	if fresh {
		return l.c.Vouch(ctx)
	}
	signed, _ := l.c.Log.Vouched()
	if signed == nil {
		return nil, keys.Errorf(keys.ErrNotFound, "the audit log has no checkpoint yet; ask for a fresh one")
	}
	return signed, nil
}

// Proof returns the proof of a record under the last checkpoint. Errors:
// keys.ErrNotFound: no checkpoint vouches for it yet, or it was archived.
func (l *Log) Proof(ctx context.Context, seq uint64) ([]byte, error) {
	signed, c := l.c.Log.Vouched()
	leaf, path, err := l.c.Log.Prove(seq, c.Size)
	if err != nil {
		return nil, err
	}
	line, err := Line(ctx, l.c.Dir, seq)
	if errors.Is(err, ErrGone) {
		return nil, keys.Errorf(keys.ErrNotFound, "the record %d was archived; keyhole audit prove makes its proof where its segment is", seq)
	}
	if err != nil {
		return nil, unreadable(ctx, err)
	}
	if merkle.LeafHash(line) != leaf {
		return nil, fmt.Errorf("%w: the line of the record %d is not the one that was written; run keyhole audit verify", keys.ErrTampered, seq)
	}
	p := verify.Proof{Seq: seq, Line: line, Path: path, Checkpoint: signed}
	return p.Marshal(), nil
}

// Keys returns the file of the public audit keys. Errors: keys.ErrNotFound.
func (l *Log) Keys() ([]byte, error) {
	if file := l.c.Keys(); len(file) > 0 {
		return file, nil
	}
	return nil, keys.Errorf(keys.ErrNotFound, "there is no audit key yet")
}

// unreadable marks an error about the log's files, unless ctx is what ended.
func unreadable(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil {
		return err
	}
	return fmt.Errorf("%w: %w", keys.ErrAudit, err)
}
