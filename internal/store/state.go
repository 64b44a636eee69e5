package store

import (
	"context"
	"crypto/sha256"
	"fmt"

	"github.com/uptrace/bun"

	"github.com/sluice-mq/sluice/internal/snapshot"
)

// State is the whole store at one version. Snapshot lacks what the store does
// not know or cannot open: the receipt keys; Nodes are as they were last seen.
type State struct {
	snapshot.Snapshot
	// ReceiptKeys are sealed at ReceiptKeyPlace; the newest first.
	SealedKeys []SealedKey
}

// SealedKey is a receipt key at rest.
type SealedKey struct {
	ID     uint32
	Sealed []byte
}

// HasSealed tells whether the store holds anything that needs the secret key.
func (s *State) HasSealed() bool {
	for _, c := range s.Clusters {
		if len(c.SealedPassword)+len(c.SealedKey) > 0 {
			return true
		}
	}
	return len(s.SealedKeys) > 0
}

func load(ctx context.Context, db bun.IDB) (*State, error) {
	st := &State{}
	for _, part := range []func(context.Context, bun.IDB, *State) error{loadMeta, loadClusters, loadTopics, loadGroups, loadTokens, loadKeys, loadNodes} {
		if err := part(ctx, db, st); err != nil {
			return nil, err
		}
	}
	return st, nil
}

func loadMeta(ctx context.Context, db bun.IDB, st *State) error {
	var m meta
	if err := db.NewSelect().Model(&m).Where("id = 1").Scan(ctx); err != nil {
		return fmt.Errorf("meta: %w", err)
	}
	st.StoreID, st.Version, st.SetupDone = m.StoreID, uint64(m.Version), m.SetupDone //nolint:gosec // never negative
	return nil
}

func loadClusters(ctx context.Context, db bun.IDB, st *State) error {
	var rows []clusterRow
	if err := db.NewSelect().Model(&rows).Scan(ctx); err != nil {
		return fmt.Errorf("clusters: %w", err)
	}
	st.Clusters = make(map[string]*snapshot.Cluster, len(rows))
	for i := range rows {
		st.Clusters[rows[i].Name] = rows[i].cluster()
	}
	return nil
}

func loadTopics(ctx context.Context, db bun.IDB, st *State) error {
	var rows []topicRow
	if err := db.NewSelect().Model(&rows).Scan(ctx); err != nil {
		return fmt.Errorf("topics: %w", err)
	}
	var homes []homeRow
	if err := db.NewSelect().Model(&homes).Order("topic", "place").Scan(ctx); err != nil {
		return fmt.Errorf("homes: %w", err)
	}
	st.Topics = make(map[string]*snapshot.Topic, len(rows))
	for i := range rows {
		st.Topics[rows[i].Name] = rows[i].topic()
	}
	for i := range homes {
		t := st.Topics[homes[i].Topic]
		t.Homes = append(t.Homes, homes[i].home())
	}
	return nil
}

func loadGroups(ctx context.Context, db bun.IDB, st *State) error {
	var rows []groupRow
	if err := db.NewSelect().Model(&rows).Scan(ctx); err != nil {
		return fmt.Errorf("groups: %w", err)
	}
	var subs []subscriptionRow
	if err := db.NewSelect().Model(&subs).Scan(ctx); err != nil {
		return fmt.Errorf("subscriptions: %w", err)
	}
	st.Groups = make(map[string]*snapshot.Group, len(rows))
	for i := range rows {
		st.Groups[rows[i].Name] = rows[i].group()
	}
	for i := range subs {
		st.Groups[subs[i].ConsumerGroup].Subscriptions[subs[i].Topic] = subs[i].settings()
	}
	return nil
}

func loadTokens(ctx context.Context, db bun.IDB, st *State) error {
	var rows []tokenRow
	if err := db.NewSelect().Model(&rows).Scan(ctx); err != nil {
		return fmt.Errorf("tokens: %w", err)
	}
	st.Tokens = make(map[[32]byte]*snapshot.Token, len(rows))
	for _, r := range rows {
		if len(r.Hash) != sha256.Size {
			return fmt.Errorf("token %s: a hash of %d bytes", r.ID, len(r.Hash))
		}
		t := &snapshot.Token{ID: r.ID, App: r.App, Kind: r.Kind, Hash: [sha256.Size]byte(r.Hash), Expires: timeOf(r.ExpiresMS)}
		st.Tokens[t.Hash] = t
	}
	return nil
}

func loadKeys(ctx context.Context, db bun.IDB, st *State) error {
	var rows []receiptKeyRow
	if err := db.NewSelect().Model(&rows).Order("id DESC").Scan(ctx); err != nil {
		return fmt.Errorf("receipt keys: %w", err)
	}
	for _, r := range rows {
		st.SealedKeys = append(st.SealedKeys, SealedKey{ID: uint32(r.ID), Sealed: r.Sealed}) //nolint:gosec // AddReceiptKey takes no more
	}
	return nil
}

func loadNodes(ctx context.Context, db bun.IDB, st *State) error {
	var rows []nodeRow
	if err := db.NewSelect().Model(&rows).Scan(ctx); err != nil {
		return fmt.Errorf("nodes: %w", err)
	}
	st.Nodes = make(map[string]*snapshot.Node, len(rows))
	for _, r := range rows {
		st.Nodes[r.Name] = &snapshot.Node{
			Name: r.Name, GRPC: r.GRPC, HTTP: r.HTTP, Datacenter: r.Datacenter, Build: r.Build,
			Roles: fromJSON(r.Roles), Draining: r.Draining, Alive: r.Alive,
		}
	}
	return nil
}
