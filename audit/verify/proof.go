package verify

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"keyhole/audit"
	"keyhole/audit/checkpoint"
	"keyhole/audit/merkle"
	"keyhole/audit/segment"
)

// proofHeader begins a proof file (c2sp.org/tlog-proof).
const proofHeader = "c2sp.org/tlog-proof@v1"

// Proof says that one record is in the log that a checkpoint vouches for. It
// is all that is needed to check that, but for the audit key.
type Proof struct {
	Seq        uint64
	Line       []byte // the record, with its newline
	Path       tlog.RecordProof
	Checkpoint []byte // signed
}

// Errors about proofs.
var (
	ErrMalformedProof = errors.New("it is no proof file")
	ErrProof          = errors.New("it does not prove that the record is in the log")
)

// Prove makes the proof for a record of the log in dir, under its last
// checkpoint, or under one that was kept elsewhere, if that is given.
func Prove(dir string, seq uint64, under []byte) (*Proof, error) {
	if under == nil {
		var err error
		if under, err = lastCheckpoint(dir); err != nil {
			return nil, err
		}
	}
	c, err := checkpoint.Peek(under)
	if err != nil {
		return nil, fmt.Errorf("the checkpoint: %w", err)
	}
	if seq >= uint64(c.Size) {
		return nil, fmt.Errorf("the checkpoint vouches for the records 0 to %d; for the record %d ask the gateway for a newer one", c.Size-1, seq)
	}
	line, err := lineOf(dir, seq)
	if err != nil {
		return nil, err
	}
	hashes, err := merkle.ReadFile(filepath.Join(dir, "hashes"))
	if err != nil {
		return nil, fmt.Errorf("reading the hashes of the audit log: %w", err)
	}
	defer hashes.Close()
	path, err := tlog.ProveRecord(c.Size, int64(seq), hashes)
	if err != nil {
		return nil, fmt.Errorf("reading the hashes of the audit log: %w", err)
	}
	p := &Proof{Seq: seq, Line: line, Path: path, Checkpoint: under}
	if err := tlog.CheckRecord(path, c.Size, c.Root, int64(seq), merkle.LeafHash(line)); err != nil {
		return nil, fmt.Errorf("the log, its hashes and the checkpoint do not agree about the record %d; run keyhole audit verify", seq)
	}
	return p, nil
}

func lastCheckpoint(dir string) ([]byte, error) {
	notes, err := checkpoint.Last(filepath.Join(dir, "checkpoints"))
	if err != nil {
		return nil, fmt.Errorf("reading the checkpoints of the audit log: %w", err)
	}
	if notes == nil {
		return nil, errors.New("the audit log has no checkpoint yet")
	}
	return notes, nil
}

// lineOf finds the line of a record.
func lineOf(dir string, seq uint64) ([]byte, error) {
	files, err := segment.List(dir)
	if err != nil {
		return nil, fmt.Errorf("reading the audit log: %w", err)
	}
	rest, _, err := segment.From(files, seq)
	if err != nil {
		return nil, fmt.Errorf("reading the audit log: %w", err)
	}
	for l, err := range segment.Lines(rest) {
		if err != nil {
			return nil, fmt.Errorf("reading the audit log: %w", err)
		}
		switch got, ok := segment.Seq(l.Bytes); {
		case !ok:
			return nil, l.Errorf("it is no line of an audit log; run keyhole audit verify")
		case got == seq:
			return bytes.Clone(l.Bytes), nil
		case got > seq:
			return nil, fmt.Errorf("the record %d is not here: its segment was archived, or it is missing; run keyhole audit verify", seq)
		}
	}
	return nil, fmt.Errorf("there is no record %d", seq)
}

// Marshal writes a proof file. Its "extra" is the record.
func (p *Proof) Marshal() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\nextra %s\nindex %d\n", proofHeader, base64.StdEncoding.EncodeToString(p.Line), p.Seq)
	for _, h := range p.Path {
		fmt.Fprintf(&b, "%s\n", h)
	}
	b.WriteByte('\n')
	b.Write(p.Checkpoint)
	return b.Bytes()
}

// ParseProof reads a proof file. It checks nothing but its form. Errors:
// ErrMalformedProof.
func ParseProof(file []byte) (*Proof, error) {
	text, signed, ok := bytes.Cut(file, []byte("\n\n"))
	lines := strings.Split(string(text), "\n")
	if !ok || len(lines) < 3 || lines[0] != proofHeader {
		return nil, ErrMalformedProof
	}
	p := &Proof{Checkpoint: signed}
	extra, ok := strings.CutPrefix(lines[1], "extra ")
	var err error
	if p.Line, err = base64.StdEncoding.Strict().DecodeString(extra); err != nil || !ok || len(p.Line) > segment.MaxLine {
		return nil, fmt.Errorf("%w: the second line does not hold the record", ErrMalformedProof)
	}
	index, ok := strings.CutPrefix(lines[2], "index ")
	if p.Seq, err = strconv.ParseUint(index, 10, 63); err != nil || !ok || strconv.FormatUint(p.Seq, 10) != index {
		return nil, fmt.Errorf("%w: the third line does not hold the index", ErrMalformedProof)
	}
	if len(lines) > 3+63 {
		return nil, fmt.Errorf("%w: no log has so many hashes on a path", ErrMalformedProof)
	}
	for _, l := range lines[3:] {
		h, err := base64.StdEncoding.Strict().DecodeString(l)
		if err != nil || len(h) != tlog.HashSize {
			return nil, fmt.Errorf("%w: %q is no hash", ErrMalformedProof, l)
		}
		p.Path = append(p.Path, tlog.Hash(h))
	}
	return p, nil
}

// Check checks the proof with public keys alone and returns the record and
// the checkpoint that vouches for it. Errors: ErrProof, and those of
// checkpoint.Open.
func (p *Proof) Check(known *checkpoint.Keys) (audit.Record, checkpoint.Checkpoint, error) {
	var r audit.Record
	c, _, err := checkpoint.Open(p.Checkpoint, known)
	if err != nil {
		return r, c, fmt.Errorf("the checkpoint of the proof: %w", err)
	}
	if p.Seq >= uint64(c.Size) || tlog.CheckRecord(p.Path, c.Size, c.Root, int64(p.Seq), merkle.LeafHash(p.Line)) != nil {
		return r, c, fmt.Errorf("%w that has %d records", ErrProof, c.Size)
	}
	if r, err = audit.ParseLine(p.Line); err != nil || r.Seq != p.Seq {
		return r, c, fmt.Errorf("%w: what is proved is no record %d", ErrProof, p.Seq)
	}
	return r, c, nil
}
