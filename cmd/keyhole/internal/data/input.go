package data

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"keyhole/cmd/keyhole/internal/app"
	"keyhole/cmd/keyhole/internal/term"
	"keyhole/keys"
)

// message is what is signed: the bytes of a file, or a digest.
type message struct{ digest, hash string }

func (m *message) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&m.digest, "digest", "", "sign or verify this digest, in `HEX`, in place of a file")
	cmd.Flags().StringVar(&m.hash, "hash", "", "hash the file here by `NAME` (sha-256, sha-384, sha-512), and send its digest only; with --digest, its hash")
	app.Complete(cmd, "hash", "sha-256", "sha-384", "sha-512")
}

// read returns a payload or a digest, never both.
func (m *message) read(ctx context.Context, s *term.Streams, args []string, i int) (payload, digest []byte, err error) {
	switch {
	case m.digest != "" && len(args) > i:
		return nil, nil, app.Usagef("--digest takes the place of FILE: leave one of them out")
	case m.digest != "":
		digest, err = hex.DecodeString(m.digest)
		if err != nil {
			return nil, nil, app.Usagef("--digest is not hexadecimal, as sha256sum prints it")
		}
		return nil, digest, nil
	case m.hash != "":
		digest, err = digestOf(ctx, s, app.FileArg(args, i), m.hash)
		return nil, digest, err
	}
	payload, err = s.Read(ctx, app.FileArg(args, i))
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
		return nil, app.Usagef("%s is not standard base64", name)
	}
	return b, nil
}
