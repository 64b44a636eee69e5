package control

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"
	"uuid"

	"github.com/sluice-mq/sluice/internal/auth"
	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/secret"
	"github.com/sluice-mq/sluice/internal/snapshot"
	"github.com/sluice-mq/sluice/internal/store"
)

// setupLife is how long a set-up link can be used.
const setupLife = 24 * time.Hour

// receiptKeyBytes is the length of a key that signs receipts (HMAC-SHA256).
const receiptKeyBytes = 32

func (s *Service) addReceiptKey(ctx context.Context, tx *store.Tx, id uint32) error {
	key := make([]byte, receiptKeyBytes)
	if _, err := rand.Read(key); err != nil {
		return fmt.Errorf("make receipt key: %w", err)
	}
	sealed, err := s.deps.Box.Seal(store.ReceiptKeyPlace(id), key)
	if err != nil {
		return err
	}
	return tx.AddReceiptKey(ctx, store.SealedKey{ID: id, Sealed: sealed})
}

// CreateToken makes a token of kind app (for an app), admin or node; expiresIn 0
// is never. An app may have several at once, so that one can take over from
// another. The text is given this once and not kept.
func (s *Service) CreateToken(ctx context.Context, who auth.Who, kind, app string, expiresIn time.Duration) (id string, token secret.Secret, err error) {
	switch {
	case kind != auth.KindApp && kind != auth.KindAdmin && kind != auth.KindNode:
		return "", token, fault.New(fault.InvalidArgument, "token kind %.40q is unknown; choose app, admin or node", kind)
	case kind == auth.KindApp || app != "":
		if err := checkName("app", app); err != nil {
			return "", token, err
		}
	}
	if expiresIn < 0 {
		return "", token, fault.New(fault.InvalidArgument, "the token would have expired before it was made; give a time from now")
	}
	text, err := auth.NewToken(kind)
	if err != nil {
		return "", token, err
	}
	t := &snapshot.Token{ID: uuid.NewV7().String(), App: app, Kind: kind, Hash: auth.Hash(text)}
	if expiresIn > 0 {
		t.Expires = s.now().Add(expiresIn).UTC()
	}
	_, err = s.write(ctx, false, func(ctx context.Context, tx *store.Tx) error { return tx.InsertToken(ctx, t) })
	if err != nil {
		return "", token, stored(err, fault.Internal, "token", t.ID)
	}
	s.audit(ctx, who, "token create", t.ID, nil, t)
	return t.ID, secret.New(text), nil
}

// ListTokens lists tokens, the oldest first.
func (s *Service) ListTokens(context.Context) []*snapshot.Token {
	tokens := s.current().Tokens
	list := make([]*snapshot.Token, 0, len(tokens))
	for _, t := range tokens {
		list = append(list, t)
	}
	slices.SortFunc(list, func(a, b *snapshot.Token) int { return cmp.Compare(a.ID, b.ID) })
	return list
}

// RevokeToken ends a token: nodes refuse it, and end its streams, with the next snapshot.
func (s *Service) RevokeToken(ctx context.Context, who auth.Who, id string) error {
	_, err := s.write(ctx, false, func(ctx context.Context, tx *store.Tx) error { return tx.DeleteToken(ctx, id) })
	if err != nil {
		return stored(err, fault.InvalidArgument, "token", id)
	}
	s.audit(ctx, who, "token revoke", id, id, nil)
	return nil
}

// OfferSetup makes the one-time set-up secret, writes the link around it to a
// file (mode 0600) and gives the link, for the node to print once. It ends an
// older one. The zero Secret: an administrator exists already.
func (s *Service) OfferSetup(ctx context.Context, file string, link func(secret string) string) (secret.Secret, error) {
	if s.current().SetupDone {
		return secret.Secret{}, nil
	}
	text, err := auth.NewToken(auth.KindSetup)
	if err != nil {
		return secret.Secret{}, err
	}
	_, err = s.write(ctx, false, func(ctx context.Context, tx *store.Tx) error {
		return tx.OfferSetup(ctx, auth.Hash(text), s.now().Add(setupLife))
	})
	if err != nil {
		return secret.Secret{}, err
	}
	shown := link(text)
	if err := writePrivate(file, shown+"\n"); err != nil {
		return secret.Secret{}, fmt.Errorf("write the set-up link: %w", err)
	}
	s.mu.Lock()
	s.setupFile = file
	s.mu.Unlock()
	return secret.New(shown), nil
}

// writePrivate replaces a file by a new one that only the owner reads.
func writePrivate(path, text string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// Setup turns the set-up secret into the first administrator's token, once.
func (s *Service) Setup(ctx context.Context, text string) (secret.Secret, error) {
	token, err := auth.NewToken(auth.KindAdmin)
	if err != nil {
		return secret.Secret{}, err
	}
	t := &snapshot.Token{ID: uuid.NewV7().String(), Kind: auth.KindAdmin, Hash: auth.Hash(token)}
	_, err = s.write(ctx, false, func(ctx context.Context, tx *store.Tx) error {
		if err := tx.UseSetup(ctx, auth.Hash(text)); err != nil {
			return err
		}
		return tx.InsertToken(ctx, t)
	})
	switch {
	case errors.Is(err, store.ErrUsed):
		return secret.Secret{}, fault.New(fault.AlreadyExists, "the set-up link was used already; ask the administrator for a token")
	case errors.Is(err, store.ErrExpired):
		return secret.Secret{}, fault.New(fault.Unauthenticated, "the set-up link is older than %v; restart the node, which makes a new one", setupLife)
	case errors.Is(err, store.ErrNotFound):
		return secret.Secret{}, fault.New(fault.Unauthenticated, "this is not the newest set-up link; take the one that the node printed last, or from the file setup-link in its data folder")
	case err != nil:
		return secret.Secret{}, err
	}
	s.audit(ctx, auth.Who{}, "setup", t.ID, nil, t)
	s.mu.Lock()
	file := s.setupFile
	s.mu.Unlock()
	if file != "" {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.log.WarnContext(ctx, "used set-up link not removed", "file", file, "err", err)
		}
	}
	return secret.New(token), nil
}
