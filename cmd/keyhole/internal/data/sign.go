package data

import (
	"context"
	"encoding/base64"

	"github.com/spf13/cobra"

	"keyhole/client"
	"keyhole/cmd/keyhole/internal/app"
	"keyhole/gateway/api"
)

func signCmd(a *app.App) *cobra.Command {
	var msg message
	var format, out string
	var batch bool
	var receipt app.Receipt
	cmd := &cobra.Command{
		Use:   "sign KEY [FILE]",
		Short: "Sign a file by a key's active version",
		Long: `Signs FILE (standard input if left out) by the active version of KEY.

The signature is printed in base64, or written as bytes with -O. Which version
signed is in the answer of -o json; verify needs it as KEY.vN. The jws formats
carry it themselves.`,
		Example: `  keyhole sign payments invoice.txt --format jws-detached > invoice.jws
  keyhole sign payments invoice.txt --format der -O invoice.sig
  keyhole sign payments --hash sha-256 disk.img
  keyhole sign payments --batch < items.jsonl > signatures.jsonl`,
		Args: app.Operands,
		RunE: func(cmd *cobra.Command, args []string) error {
			if batch {
				return runBatch(a, cmd, args, (*client.Client).SignBatch, nil)
			}
			if err := a.CheckOut(out); err != nil {
				return err
			}
			req := api.SignRequest{Format: format, Hash: msg.hash}
			var err error
			if req.Payload, req.Digest, err = msg.read(cmd.Context(), &a.Streams, args, 1); err != nil {
				return err
			}
			res, err := app.CallWithReceipt(a, cmd, &receipt, func(ctx context.Context, c *client.Client) (api.SignResponse, error) {
				return c.Sign(ctx, args[0], req)
			})
			if err != nil {
				return err
			}
			text, raw := base64.StdEncoding.EncodeToString(res.Signature), res.Signature
			if res.JWS != "" {
				text, raw = res.JWS, []byte(res.JWS)
			}
			if out != "" {
				err = a.Streams.WriteFile(out, raw, false)
			} else {
				err = a.Print(res, app.Line("%s", text))
			}
			if err == nil && a.Text() {
				a.Streams.Notef("signed by %s (%s)", res.KeyID, res.Algorithm)
			}
			return err
		},
		ValidArgsFunction: a.CompleteKeys,
	}
	msg.flags(cmd)
	cmd.Flags().StringVar(&format, "format", "", "`NAME` of the signature's form: raw (default; ECDSA as r||s), der, jws, jws-detached")
	app.Complete(cmd, "format", api.FormatRaw, api.FormatDER, api.FormatJWS, api.FormatJWSDetached)
	app.OutFlag(cmd, &out, "the signature")
	batchFlag(cmd, &batch)
	receipt.Flag(cmd)
	cmd.MarkFlagsMutuallyExclusive("batch", "receipt")
	return cmd
}

func verifyCmd(a *app.App) *cobra.Command {
	var msg message
	var format, signature, signatureFile, jws, jwsFile string
	var batch bool
	var receipt app.Receipt
	cmd := &cobra.Command{
		Use:   "verify KEY[.vN] [FILE]",
		Short: "Verify a signature; exit code 3 if it is not valid",
		Long: `Verifies a signature of FILE (standard input if left out) by version N of KEY.

A JWS names its version itself, and holds its payload unless it is detached:
then FILE is the payload. A good signature by a version that is compromised,
suspended or destroyed is not valid; the answer says why.`,
		Example: `  keyhole verify payments invoice.txt --jws-file invoice.jws
  keyhole verify payments.v3 invoice.txt --signature-file invoice.sig --format der
  keyhole verify payments.v3 --hash sha-256 disk.img --signature "$SIG"`,
		Args: app.Operands,
		RunE: func(cmd *cobra.Command, args []string) error {
			if batch {
				return runBatch(a, cmd, args, (*client.Client).VerifyBatch, func(r *api.VerifyResponse) bool { return !r.Valid })
			}
			id, err := app.KeyOrVersion(args[0])
			if err != nil {
				return err
			}
			req := api.VerifyRequest{Version: id.Number, Format: format, Hash: msg.hash, JWS: jws}
			if req.Signature, err = signatureOf(a, cmd, signature, signatureFile); err != nil {
				return err
			}
			if jwsFile != "" {
				if req.JWS, err = readText(cmd.Context(), &a.Streams, jwsFile); err != nil {
					return err
				}
			}
			switch {
			case req.JWS == "" && id.Number == 0:
				return app.Usagef("which version signed? Write it as %s.vN: sign -o json tells it", args[0])
			case req.JWS == "" || len(args) > 1 || msg.digest != "":
				req.Payload, req.Digest, err = msg.read(cmd.Context(), &a.Streams, args, 1)
			}
			if err != nil {
				return err
			}
			res, err := app.CallWithReceipt(a, cmd, &receipt, func(ctx context.Context, c *client.Client) (api.VerifyResponse, error) {
				return c.Verify(ctx, id.Key, req)
			})
			if err != nil {
				return err
			}
			if res.Valid {
				return a.Print(res, app.Line("valid: by %s (%s, %s)", res.KeyID, res.Algorithm, res.State))
			}
			if err := a.Print(res, app.Line("NOT valid: %s (of %s, %s)", res.Reason, res.KeyID, res.State)); err != nil {
				return err
			}
			return app.Silent{Code: app.ExitInvalid}
		},
		ValidArgsFunction: a.CompleteKeys,
	}
	msg.flags(cmd)
	f := cmd.Flags()
	f.StringVar(&signature, "signature", "", "the signature in `BASE64`, as sign prints it")
	f.StringVar(&signatureFile, "signature-file", "", "`FILE` of the signature as bytes, as sign -O writes it")
	f.StringVar(&format, "format", "", "`NAME` of the signature's form: raw (default; ECDSA as r||s) or der")
	f.StringVar(&jws, "jws", "", "the compact `JWS`, in place of a signature")
	f.StringVar(&jwsFile, "jws-file", "", "`FILE` of the compact JWS")
	app.Complete(cmd, "format", api.FormatRaw, api.FormatDER)
	batchFlag(cmd, &batch)
	receipt.Flag(cmd)
	cmd.MarkFlagsMutuallyExclusive("batch", "receipt")
	cmd.MarkFlagsMutuallyExclusive("signature", "signature-file", "jws", "jws-file")
	cmd.MarkFlagsOneRequired("signature", "signature-file", "jws", "jws-file", "batch")
	return cmd
}

// signatureOf reads the signature from a flag or file; nil if neither is set.
func signatureOf(a *app.App, cmd *cobra.Command, text, file string) ([]byte, error) {
	switch {
	case file != "":
		return a.Streams.Read(cmd.Context(), file)
	case text != "":
		return decodeBase64("--signature", text)
	}
	return nil, nil
}
