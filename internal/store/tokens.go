package store

import (
	"context"
	"crypto/subtle"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/sluice-mq/sluice/internal/secret"
	"github.com/sluice-mq/sluice/internal/snapshot"
)

// InsertToken adds a token's hash.
func (t *Tx) InsertToken(ctx context.Context, k *snapshot.Token) error {
	row := &tokenRow{ID: k.ID, Hash: k.Hash[:], App: k.App, Kind: k.Kind, CreatedMS: msOf(t.now), ExpiresMS: msOf(k.Expires)}
	res, err := t.tx.NewInsert().Model(row).On("CONFLICT DO NOTHING").Exec(ctx)
	return wrap(affected(res, err, ErrExists), "insert token", k.ID)
}

// DeleteToken removes a token.
func (t *Tx) DeleteToken(ctx context.Context, id string) error {
	res, err := t.tx.NewDelete().Model((*tokenRow)(nil)).Where("id = ?", id).Exec(ctx)
	return wrap(affected(res, err, ErrNotFound), "delete token", id)
}

// ReceiptKeyPlace is where a receipt key is sealed.
func ReceiptKeyPlace(id uint32) secret.Place {
	return secret.Place{Table: "receipt_keys", Row: strconv.FormatUint(uint64(id), 10), Column: "sealed"}
}

// AddReceiptKey adds a sealed key.
func (t *Tx) AddReceiptKey(ctx context.Context, k SealedKey) error {
	if k.ID == 0 || k.ID == math.MaxUint32 {
		return fmt.Errorf("receipt key id %d is out of range", k.ID)
	}
	row := &receiptKeyRow{ID: int64(k.ID), Sealed: k.Sealed, CreatedMS: msOf(t.now)}
	res, err := t.tx.NewInsert().Model(row).On("CONFLICT DO NOTHING").Exec(ctx)
	return wrap(affected(res, err, ErrExists), "insert receipt key", strconv.FormatUint(uint64(k.ID), 10))
}

// OfferSetup stores the hash of a new set-up secret, which ends an older one. It fails with ErrUsed once an administrator exists.
func (t *Tx) OfferSetup(ctx context.Context, hash [32]byte, expires time.Time) error {
	res, err := t.tx.NewUpdate().Model((*meta)(nil)).Set("setup_hash = ?", hash[:]).Set("setup_expires_ms = ?", msOf(expires)).
		Where("id = 1").Where("setup_done = ?", false).Exec(ctx)
	if err := affected(res, err, ErrUsed); err != nil {
		return fmt.Errorf("offer set-up: %w", err)
	}
	return nil
}

// UseSetup takes the set-up secret, once: ErrUsed after that, ErrExpired when
// it is too late, ErrNotFound for another secret.
func (t *Tx) UseSetup(ctx context.Context, hash [32]byte) error {
	var m meta
	if err := t.tx.NewSelect().Model(&m).Where("id = 1").Scan(ctx); err != nil {
		return fmt.Errorf("use set-up: %w", err)
	}
	switch {
	case m.SetupDone:
		return ErrUsed
	case subtle.ConstantTimeCompare(m.SetupHash, hash[:]) != 1:
		return ErrNotFound
	case !t.now.Before(timeOf(m.SetupExpiresMS)):
		return ErrExpired
	}
	_, err := t.tx.NewUpdate().Model((*meta)(nil)).Set("setup_hash = NULL").Set("setup_done = ?", true).Where("id = 1").Exec(ctx)
	if err != nil {
		return fmt.Errorf("use set-up: %w", err)
	}
	return nil
}
