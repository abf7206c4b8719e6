package data

import (
	"context"
	"encoding/base64"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"keyhole/client"
	"keyhole/cmd/keyhole/internal/app"
	"keyhole/cmd/keyhole/internal/term"
	"keyhole/gateway/api"
	"keyhole/keys"
)

func encryptCmd(a *app.App) *cobra.Command {
	var bound aad
	var out string
	var batch bool
	var receipt app.Receipt
	cmd := &cobra.Command{
		Use:   "encrypt KEY [FILE]",
		Short: "Encrypt a file under a key's active version",
		Long: `Encrypts FILE (standard input if left out) under the active version of KEY. The
ciphertext is one line of text that names its version, kh1:KEY.vN:...`,
		Example: `  keyhole encrypt customers card.txt --aad "customer 4711" > card.kh1
  keyhole encrypt customers --batch < items.jsonl > ciphertexts.jsonl`,
		Args: app.Operands,
		RunE: func(cmd *cobra.Command, args []string) error {
			if batch {
				return runBatch(a, cmd, args, (*client.Client).EncryptBatch, nil)
			}
			if err := a.CheckOut(out); err != nil {
				return err
			}
			var req api.EncryptRequest
			var err error
			if req.AAD, err = bound.read(cmd.Context(), &a.Streams); err != nil {
				return err
			}
			if req.Plaintext, err = a.Streams.Read(cmd.Context(), app.FileArg(args, 1)); err != nil {
				return err
			}
			res, err := app.CallWithReceipt(a, cmd, &receipt, func(ctx context.Context, c *client.Client) (api.EncryptResponse, error) {
				return c.Encrypt(ctx, args[0], req)
			})
			if err != nil {
				return err
			}
			if out != "" {
				return a.Streams.WriteFile(out, []byte(res.Ciphertext), false)
			}
			return a.Print(res, app.Line("%s", res.Ciphertext))
		},
		ValidArgsFunction: a.CompleteKeys,
	}
	bound.flags(cmd)
	app.OutFlag(cmd, &out, "the ciphertext")
	batchFlag(cmd, &batch)
	receipt.Flag(cmd)
	cmd.MarkFlagsMutuallyExclusive("batch", "receipt")
	return cmd
}

func decryptCmd(a *app.App) *cobra.Command {
	var bound aad
	var out string
	var batch bool
	var receipt app.Receipt
	cmd := &cobra.Command{
		Use:   "decrypt KEY [FILE]",
		Short: "Decrypt a ciphertext, or a JWE; exit code 3 if it does not open",
		Long: `Decrypts the ciphertext in FILE (standard input if left out): kh1:..., or a
compact JWE that was made from the key's JWKS.

The plaintext is printed as it is, without a line end after it unless standard
output is a terminal. -O FILE writes it to a file that only you can read.`,
		Example: `  keyhole decrypt customers card.kh1 --aad "customer 4711"
  keyhole decrypt mail -O letter.pdf < letter.jwe`,
		Args: app.Operands,
		RunE: func(cmd *cobra.Command, args []string) error {
			if batch {
				return runBatch(a, cmd, args, (*client.Client).DecryptBatch, nil)
			}
			if err := a.CheckOut(out); err != nil {
				return err
			}
			var req api.DecryptRequest
			var err error
			if req.AAD, err = bound.read(cmd.Context(), &a.Streams); err != nil {
				return err
			}
			text, err := readText(cmd.Context(), &a.Streams, app.FileArg(args, 1))
			if err != nil {
				return err
			}
			if strings.HasPrefix(text, keys.EnvelopePrefix) || strings.Count(text, ".") != 4 {
				req.Ciphertext = text
			} else {
				req.JWE = text
			}
			res, err := app.CallWithReceipt(a, cmd, &receipt, func(ctx context.Context, c *client.Client) (api.DecryptResponse, error) {
				return c.Decrypt(ctx, args[0], req)
			})
			if err != nil {
				return err
			}
			if out != "" {
				return a.Streams.WriteFile(out, res.Plaintext, true)
			}
			return a.Print(res, func(io.Writer) error { return a.Streams.WriteBytes(res.Plaintext) })
		},
		ValidArgsFunction: a.CompleteKeys,
	}
	bound.flags(cmd)
	app.OutFlag(cmd, &out, "the plaintext")
	batchFlag(cmd, &batch)
	receipt.Flag(cmd)
	cmd.MarkFlagsMutuallyExclusive("batch", "receipt")
	return cmd
}

func rewrapCmd(a *app.App) *cobra.Command {
	var bound aad
	var batch bool
	cmd := &cobra.Command{
		Use:   "rewrap KEY [FILE]",
		Short: "Bring a ciphertext under the key's active version",
		Long: `Makes a new ciphertext under the active version of KEY out of the one in FILE
(standard input if left out). The plaintext never leaves the gateway.`,
		Example: `  keyhole rewrap customers card.kh1 --aad "customer 4711" > card.new
  keyhole rewrap customers --batch < old.jsonl > new.jsonl`,
		Args: app.Operands,
		RunE: func(cmd *cobra.Command, args []string) error {
			if batch {
				return runBatch(a, cmd, args, (*client.Client).RewrapBatch, nil)
			}
			var req api.RewrapRequest
			var err error
			if req.AAD, err = bound.read(cmd.Context(), &a.Streams); err != nil {
				return err
			}
			if req.Ciphertext, err = readText(cmd.Context(), &a.Streams, app.FileArg(args, 1)); err != nil {
				return err
			}
			res, err := app.Call(a, cmd, func(ctx context.Context, c *client.Client) (api.RewrapResponse, error) {
				return c.Rewrap(ctx, args[0], req)
			})
			if err != nil {
				return err
			}
			return a.Print(res, app.Line("%s", res.Ciphertext))
		},
		ValidArgsFunction: a.CompleteKeys,
	}
	bound.flags(cmd)
	batchFlag(cmd, &batch)
	return cmd
}

func datakeyCmd(a *app.App) *cobra.Command {
	var bound aad
	var bits int
	var sealedOnly bool
	var out string
	cmd := &cobra.Command{
		Use:   "datakey KEY",
		Short: "Make a data key: in the clear, and sealed under a key",
		Long: `Makes a fresh data key in the HSM and prints it twice: in the clear (base64), to
encrypt with here and then to forget, and sealed under the active version of
KEY, to keep beside the data. decrypt opens the sealed one again.

With -O the key in the clear goes to a file that only you can read, and only
the sealed one is printed.`,
		Example: `  keyhole datakey backups -O backup.key > backup.key.kh1
  keyhole datakey backups --sealed-only > next.key.kh1`,
		Args: app.Operands,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.CheckOut(out); err != nil {
				return err
			}
			req := api.DataKeyRequest{Bits: bits}
			if sealedOnly {
				req.Plaintext = new(bool)
			}
			var err error
			if req.AAD, err = bound.read(cmd.Context(), &a.Streams); err != nil {
				return err
			}
			res, err := app.Call(a, cmd, func(ctx context.Context, c *client.Client) (api.DataKeyResponse, error) {
				return c.DataKey(ctx, args[0], req)
			})
			if err != nil {
				return err
			}
			if out != "" {
				if err := a.Streams.WriteFile(out, res.Plaintext, true); err != nil {
					return err
				}
			}
			if out != "" || sealedOnly {
				return a.Print(res, app.Line("%s", res.Ciphertext))
			}
			return a.Print(res, func(w io.Writer) error {
				return term.Table(w, []string{"plaintext", base64.StdEncoding.EncodeToString(res.Plaintext)}, []string{"ciphertext", res.Ciphertext})
			})
		},
		ValidArgsFunction: a.CompleteKeys,
	}
	bound.flags(cmd)
	cmd.Flags().IntVar(&bits, "bits", 0, "`SIZE` of the data key: 128 or 256 (default)")
	app.Complete(cmd, "bits", "128", "256")
	cmd.Flags().BoolVar(&sealedOnly, "sealed-only", false, "make the key without showing it, for somebody else to open")
	app.OutFlag(cmd, &out, "the key in the clear")
	cmd.MarkFlagsMutuallyExclusive("sealed-only", "out")
	return cmd
}
