package client

import (
	"context"
	"net/http"

	"keyhole/gateway/api"
	"keyhole/keys"
)

// Sign signs by the key's active version.
func (c *Client) Sign(ctx context.Context, key string, req api.SignRequest) (api.SignResponse, error) {
	return operate[api.SignResponse](ctx, c, key, "sign", req)
}

// Verify judges a signature. A signature that does not hold is an answer with
// Valid false and a Reason, not an error.
func (c *Client) Verify(ctx context.Context, key string, req api.VerifyRequest) (api.VerifyResponse, error) {
	return operate[api.VerifyResponse](ctx, c, key, "verify", req)
}

// Encrypt seals a plaintext under the key's active version.
func (c *Client) Encrypt(ctx context.Context, key string, req api.EncryptRequest) (api.EncryptResponse, error) {
	return operate[api.EncryptResponse](ctx, c, key, "encrypt", req)
}

// Decrypt opens a ciphertext or a compact JWE. What does not open is
// keys.ErrDecrypt, whatever was wrong with it.
func (c *Client) Decrypt(ctx context.Context, key string, req api.DecryptRequest) (api.DecryptResponse, error) {
	return operate[api.DecryptResponse](ctx, c, key, "decrypt", req)
}

// Rewrap seals an old ciphertext's plaintext under the active version,
// inside the gateway.
func (c *Client) Rewrap(ctx context.Context, key string, req api.RewrapRequest) (api.RewrapResponse, error) {
	return operate[api.RewrapResponse](ctx, c, key, "rewrap", req)
}

// DataKey returns a fresh data key, sealed and (unless declined) in the clear.
func (c *Client) DataKey(ctx context.Context, key string, req api.DataKeyRequest) (api.DataKeyResponse, error) {
	return operate[api.DataKeyResponse](ctx, c, key, "datakey", req)
}

// SignBatch signs 1 to api.MaxBatch items. The answer has one item per
// request, in order; the error of one fails no other.
func (c *Client) SignBatch(ctx context.Context, key string, items []api.SignRequest) ([]api.BatchItem[api.SignResponse], error) {
	return batch[api.SignResponse](ctx, c, key, "sign", items)
}

// VerifyBatch is SignBatch for Verify.
func (c *Client) VerifyBatch(ctx context.Context, key string, items []api.VerifyRequest) ([]api.BatchItem[api.VerifyResponse], error) {
	return batch[api.VerifyResponse](ctx, c, key, "verify", items)
}

// EncryptBatch is SignBatch for Encrypt.
func (c *Client) EncryptBatch(ctx context.Context, key string, items []api.EncryptRequest) ([]api.BatchItem[api.EncryptResponse], error) {
	return batch[api.EncryptResponse](ctx, c, key, "encrypt", items)
}

// DecryptBatch is SignBatch for Decrypt.
func (c *Client) DecryptBatch(ctx context.Context, key string, items []api.DecryptRequest) ([]api.BatchItem[api.DecryptResponse], error) {
	return batch[api.DecryptResponse](ctx, c, key, "decrypt", items)
}

// RewrapBatch is SignBatch for Rewrap.
func (c *Client) RewrapBatch(ctx context.Context, key string, items []api.RewrapRequest) ([]api.BatchItem[api.RewrapResponse], error) {
	return batch[api.RewrapResponse](ctx, c, key, "rewrap", items)
}

// Random returns n bytes, 1 to api.MaxRandom, from the HSM.
func (c *Client) Random(ctx context.Context, n int) ([]byte, error) {
	out, err := ask[api.RandomResponse](ctx, c, call{method: http.MethodPost, path: "/v1/random"}, api.RandomRequest{Bytes: n})
	if err == nil && len(out.Random) != n {
		return nil, keys.Errorf(keys.ErrInternal, "the gateway answered %d random bytes for %d", len(out.Random), n)
	}
	return out.Random, err
}

func operate[Out any](ctx context.Context, c *Client, key, act string, in any) (Out, error) {
	if err := keys.CheckName(key); err != nil { // also keeps the path what it looks like
		var none Out
		return none, err
	}
	return ask[Out](ctx, c, call{method: http.MethodPost, path: "/v1/keys/" + key + "/" + act}, in)
}

func batch[Out, In any](ctx context.Context, c *Client, key, act string, items []In) ([]api.BatchItem[Out], error) {
	if len(items) == 0 || len(items) > api.MaxBatch {
		return nil, keys.Errorf(keys.ErrInvalid, "the batch has %d items; send 1 to %d", len(items), api.MaxBatch)
	}
	out, err := operate[api.BatchResponse[Out]](ctx, c, key, act+"/batch", api.BatchRequest[In]{Items: items})
	if err != nil {
		return nil, err
	}
	if len(out.Items) != len(items) {
		return nil, keys.Errorf(keys.ErrInternal, "the gateway answered %d results for %d items", len(out.Items), len(items))
	}
	for i := range out.Items {
		if (out.Items[i].Result == nil) == (out.Items[i].Error == nil) {
			return nil, keys.Errorf(keys.ErrInternal, "item %d of the answer is not either a result or an error", i)
		}
	}
	return out.Items, nil
}
