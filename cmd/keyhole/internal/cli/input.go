package cli

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"keyhole/cmd/keyhole/internal/term"
	"keyhole/keys"
)

// fileArg returns the FILE operand at i; standard input if it was left out.
func fileArg(args []string, i int) string {
	if len(args) > i {
		return args[i]
	}
	return "-"
}

// message is what is signed: the bytes of a file, or a digest.
type message struct{ digest, hash string }

func (m *message) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&m.digest, "digest", "", "sign or verify this digest, in `HEX`, in place of a file")
	cmd.Flags().StringVar(&m.hash, "hash", "", "hash the file here by `NAME` (sha-256, sha-384, sha-512), and send its digest only; with --digest, its hash")
	complete(cmd, "hash", "sha-256", "sha-384", "sha-512")
}

// read returns a payload or a digest, never both.
func (m *message) read(ctx context.Context, s *term.Streams, args []string, i int) (payload, digest []byte, err error) {
	switch {
	case m.digest != "" && len(args) > i:
		return nil, nil, usagef("--digest takes the place of FILE: leave one of them out")
	case m.digest != "":
		digest, err = hex.DecodeString(m.digest)
		if err != nil {
			return nil, nil, usagef("--digest is not hexadecimal, as sha256sum prints it")
		}
		return nil, digest, nil
	case m.hash != "":
		digest, err = digestOf(ctx, s, fileArg(args, i), m.hash)
		return nil, digest, err
	}
	payload, err = s.Read(ctx, fileArg(args, i))
	return payload, nil, err
}

// digestOf hashes a file of any size.
func digestOf(ctx context.Context, s *term.Streams, path, hash string) ([]byte, error) {
	h, err := keys.ParseHash(hash)
	if err != nil {
		return nil, err
	}
	f, err := s.Open(ctx, path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	w := h.New()
	if _, err := io.Copy(w, f); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("%w: %w", term.ErrInput, err)
	}
	return w.Sum(nil), nil
}

// aad is the additional data of encryption, from a flag or a file.
type aad struct{ text, file string }

func (d *aad) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&d.text, "aad", "", "additional authenticated data: `TEXT` that the ciphertext is bound to, such as a row's id")
	cmd.Flags().StringVar(&d.file, "aad-file", "", "the same from `FILE`")
	cmd.MarkFlagsMutuallyExclusive("aad", "aad-file")
}

func (d *aad) read(ctx context.Context, s *term.Streams) ([]byte, error) {
	switch {
	case d.file != "":
		return s.Read(ctx, d.file)
	case d.text != "":
		return []byte(d.text), nil
	}
	return nil, nil
}

// readText reads a text such as a ciphertext or a JWS, without the blanks and
// line ends around it.
func readText(ctx context.Context, s *term.Streams, path string) (string, error) {
	b, err := s.Read(ctx, path)
	return string(bytes.TrimSpace(b)), err
}

// decodeBase64 reads standard base64, over several lines if need be.
func decodeBase64(name, text string) ([]byte, error) {
	b, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(text), ""))
	if err != nil {
		return nil, usagef("%s is not standard base64", name)
	}
	return b, nil
}

// versionArg reads "payments.v3".
func versionArg(text string) (keys.VersionID, error) {
	id, err := keys.ParseVersionID(text)
	if err != nil {
		return id, usagef("%q is no version; one looks like payments.v3: keyhole key show KEY lists them", text)
	}
	return id, nil
}

// keyOrVersion reads "payments" (number 0) or "payments.v3".
func keyOrVersion(text string) (keys.VersionID, error) {
	if strings.Contains(text, ".") {
		return versionArg(text)
	}
	return keys.VersionID{Key: text}, keys.CheckName(text)
}

// parsePeriod reads a time span: Go's way, or whole days such as "90d".
func parsePeriod(text string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 32); err == nil && n <= 100*366 {
			return time.Duration(n) * 24 * time.Hour, nil
		}
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return 0, usagef("--period wants a time span such as 90d, 720h or 0s (never), not %q", text)
	}
	return d, nil
}

// parseTags reads NAME=VALUE pairs.
func parseTags(pairs []string) (map[string]string, error) {
	tags := make(map[string]string, len(pairs))
	for _, p := range pairs {
		name, value, ok := strings.Cut(p, "=")
		if !ok || name == "" {
			return nil, usagef("--tag wants NAME=VALUE, not %q", p)
		}
		if _, twice := tags[name]; twice {
			return nil, usagef("the tag %q is given twice", name)
		}
		tags[name] = value
	}
	return tags, nil
}
