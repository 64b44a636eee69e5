package snapshot

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/sluice-mq/sluice/gen/nodev1"
	"github.com/sluice-mq/sluice/internal/mq"
	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
)

// ToProto gives the form for wire and disk. Lists are sorted, so that equal snapshots encode alike.
func ToProto(s *Snapshot) *nodev1.Snapshot {
	p := &nodev1.Snapshot{Version: s.Version, StoreId: s.StoreID, SetupDone: s.SetupDone}
	for _, name := range sortedKeys(s.Clusters) {
		p.Clusters = append(p.Clusters, s.Clusters[name].ToProto())
	}
	for _, name := range sortedKeys(s.Topics) {
		p.Topics = append(p.Topics, s.Topics[name].ToProto())
	}
	for _, name := range sortedKeys(s.Groups) {
		p.Groups = append(p.Groups, s.Groups[name].ToProto())
	}
	for _, name := range sortedKeys(s.Nodes) {
		p.Nodes = append(p.Nodes, s.Nodes[name].ToProto())
	}
	for _, t := range s.Tokens {
		p.Tokens = append(p.Tokens, t.ToProto())
	}
	slices.SortFunc(p.Tokens, func(a, b *nodev1.Token) int { return cmp.Compare(a.GetId(), b.GetId()) })
	for _, k := range s.ReceiptKeys {
		p.ReceiptKeys = append(p.ReceiptKeys, &nodev1.ReceiptKey{Id: k.ID, Key: k.Key})
	}
	return p
}

// FromProto reads what ToProto made. It fails on what no control plane writes: entries without a name, or twice.
func FromProto(p *nodev1.Snapshot) (*Snapshot, error) {
	s := &Snapshot{
		Version: p.GetVersion(), StoreID: p.GetStoreId(), SetupDone: p.GetSetupDone(),
		Clusters: make(map[string]*Cluster, len(p.GetClusters())),
		Topics:   make(map[string]*Topic, len(p.GetTopics())),
		Groups:   make(map[string]*Group, len(p.GetGroups())),
		Nodes:    make(map[string]*Node, len(p.GetNodes())),
		Tokens:   make(map[[32]byte]*Token, len(p.GetTokens())),
	}
	for _, c := range p.GetClusters() {
		if err := put(s.Clusters, "cluster", c.GetName(), ClusterFromProto(c)); err != nil {
			return nil, err
		}
	}
	for _, t := range p.GetTopics() {
		if err := put(s.Topics, "topic", t.GetName(), TopicFromProto(t)); err != nil {
			return nil, err
		}
	}
	for _, g := range p.GetGroups() {
		if err := put(s.Groups, "group", g.GetName(), GroupFromProto(g)); err != nil {
			return nil, err
		}
	}
	for _, n := range p.GetNodes() {
		if err := put(s.Nodes, "node", n.GetNode().GetName(), NodeFromProto(n)); err != nil {
			return nil, err
		}
	}
	for _, t := range p.GetTokens() {
		token, err := tokenFromProto(t)
		if err != nil {
			return nil, err
		}
		s.Tokens[token.Hash] = token
	}
	for _, k := range p.GetReceiptKeys() {
		s.ReceiptKeys = append(s.ReceiptKeys, ReceiptKey{ID: k.GetId(), Key: k.GetKey()})
	}
	return s, nil
}

func put[T any](m map[string]*T, what, name string, v *T) error {
	if name == "" {
		return fmt.Errorf("snapshot: a %s without a name", what)
	}
	if _, twice := m[name]; twice {
		return fmt.Errorf("snapshot: %s %q stands there twice", what, name)
	}
	m[name] = v
	return nil
}

// ToProto gives the wire form; secrets stay sealed.
func (c *Cluster) ToProto() *nodev1.Cluster {
	p := &nodev1.Cluster{
		Name: c.Name, Kind: string(c.Kind), Bootstrap: c.Bootstrap, Datacenter: c.Datacenter, Side: c.Side,
		Node: c.Node, Version: c.Version,
	}
	if c.SASLMechanism != "" || c.SASLUser != "" || len(c.SealedPassword) > 0 {
		p.Sasl = &nodev1.Sasl{Mechanism: c.SASLMechanism, User: c.SASLUser, SealedPassword: c.SealedPassword}
	}
	if c.TLS || c.TLSServerName != "" || len(c.TLSCA)+len(c.TLSCert)+len(c.SealedKey) > 0 {
		p.Tls = &nodev1.Tls{Enabled: c.TLS, Ca: c.TLSCA, Cert: c.TLSCert, SealedKey: c.SealedKey, ServerName: c.TLSServerName}
	}
	return p
}

// ClusterFromProto reads the wire form.
func ClusterFromProto(p *nodev1.Cluster) *Cluster {
	return &Cluster{
		Name: p.GetName(), Kind: mq.Kind(p.GetKind()), Bootstrap: p.GetBootstrap(), Datacenter: p.GetDatacenter(), Side: p.GetSide(),
		SASLMechanism: p.GetSasl().GetMechanism(), SASLUser: p.GetSasl().GetUser(), SealedPassword: p.GetSasl().GetSealedPassword(),
		TLS: p.GetTls().GetEnabled(), TLSCA: p.GetTls().GetCa(), TLSCert: p.GetTls().GetCert(),
		SealedKey: p.GetTls().GetSealedKey(), TLSServerName: p.GetTls().GetServerName(),
		Node: p.GetNode(), Version: p.GetVersion(),
	}
}

// ToProto gives the wire form.
func (t *Topic) ToProto() *nodev1.Topic {
	p := &nodev1.Topic{
		Name: t.Name, Epoch: t.Epoch, Order: t.Order, Block: u32(t.Block), Owner: t.Owner, Version: t.Version,
		RateMessages: t.RateMessages, RateBytes: t.RateBytes,
	}
	for _, h := range t.Homes {
		p.Homes = append(p.Homes, &nodev1.Home{Cluster: h.Cluster, Topic: string(h.Topic), Partitions: u32(h.Partitions)})
	}
	return p
}

// TopicFromProto reads the wire form.
func TopicFromProto(p *nodev1.Topic) *Topic {
	t := &Topic{
		Name: p.GetName(), Epoch: p.GetEpoch(), Order: p.GetOrder(), Block: max(1, int(p.GetBlock())), Owner: p.GetOwner(), Version: p.GetVersion(),
		RateMessages: p.GetRateMessages(), RateBytes: p.GetRateBytes(),
	}
	for _, h := range p.GetHomes() {
		t.Homes = append(t.Homes, Home{Cluster: h.GetCluster(), Topic: mq.Topic(h.GetTopic()), Partitions: int(h.GetPartitions())})
	}
	return t
}

// ToProto gives the wire form.
func (g *Group) ToProto() *nodev1.Group {
	p := &nodev1.Group{Name: g.Name, Paused: g.Paused, Suspended: g.Suspended, Nodes: u32(g.Nodes), Version: g.Version}
	for _, topic := range sortedKeys(g.Subscriptions) {
		p.Subscriptions = append(p.Subscriptions, g.Subscriptions[topic].ToProto(topic))
	}
	return p
}

// GroupFromProto reads the wire form.
func GroupFromProto(p *nodev1.Group) *Group {
	g := &Group{
		Name: p.GetName(), Paused: p.GetPaused(), Suspended: p.GetSuspended(), Nodes: int(p.GetNodes()), Version: p.GetVersion(),
		Subscriptions: make(map[string]Settings, len(p.GetSubscriptions())),
	}
	for _, s := range p.GetSubscriptions() {
		g.Subscriptions[s.GetTopic()] = SettingsFromProto(s)
	}
	return g
}

// ToProto gives the wire form of the settings for a topic; durations in whole milliseconds.
func (s Settings) ToProto(topic string) *nodev1.SubscriptionSettings {
	return &nodev1.SubscriptionSettings{
		Topic: topic, Order: sluicev1.Order(s.Order), Start: s.Start, MaxAttempts: u32(s.MaxAttempts), //nolint:gosec // three small values
		BackoffMinMs: millis(s.BackoffMin), BackoffMaxMs: millis(s.BackoffMax), DrainMs: millis(s.Drain),
		Takeover: s.Takeover, Run: u32(s.Run),
	}
}

// SettingsFromProto reads the wire form; zero values are unstated.
func SettingsFromProto(p *nodev1.SubscriptionSettings) Settings {
	return Settings{
		Order: Order(p.GetOrder()), Start: p.GetStart(), MaxAttempts: int(p.GetMaxAttempts()),
		BackoffMin: time.Duration(p.GetBackoffMinMs()) * time.Millisecond,
		BackoffMax: time.Duration(p.GetBackoffMaxMs()) * time.Millisecond,
		Drain:      time.Duration(p.GetDrainMs()) * time.Millisecond,
		Takeover:   p.GetTakeover(), Run: int(p.GetRun()),
	}
}

// ToProto gives the wire form.
func (n *Node) ToProto() *nodev1.NodeState {
	return &nodev1.NodeState{
		Node:     &sluicev1.Node{Name: n.Name, Grpc: n.GRPC, Http: n.HTTP, Roles: n.Roles, Datacenter: n.Datacenter},
		Draining: n.Draining, Alive: n.Alive, Build: n.Build,
	}
}

// NodeFromProto reads the wire form.
func NodeFromProto(p *nodev1.NodeState) *Node {
	n := p.GetNode()
	return &Node{
		Name: n.GetName(), GRPC: n.GetGrpc(), HTTP: n.GetHttp(), Datacenter: n.GetDatacenter(), Roles: n.GetRoles(),
		Draining: p.GetDraining(), Alive: p.GetAlive(), Build: p.GetBuild(),
	}
}

// ToProto gives the wire form, hash included.
func (t *Token) ToProto() *nodev1.Token {
	p := &nodev1.Token{Id: t.ID, Hash: t.Hash[:], App: t.App, Kind: t.Kind}
	if !t.Expires.IsZero() {
		p.ExpiresAtMs = t.Expires.UnixMilli()
	}
	return p
}

func tokenFromProto(p *nodev1.Token) (*Token, error) {
	if len(p.GetHash()) != sha256.Size {
		return nil, fmt.Errorf("snapshot: token %q: a hash of %d bytes instead of %d", p.GetId(), len(p.GetHash()), sha256.Size)
	}
	t := &Token{ID: p.GetId(), App: p.GetApp(), Kind: p.GetKind(), Hash: [sha256.Size]byte(p.GetHash())}
	if p.GetExpiresAtMs() != 0 {
		t.Expires = time.UnixMilli(p.GetExpiresAtMs()).UTC()
	}
	return t, nil
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func u32(n int) uint32 { return uint32(min(max(n, 0), math.MaxUint32)) } //nolint:gosec // bounded

func millis(d time.Duration) uint32 {
	return uint32(min(max(d.Milliseconds(), 0), math.MaxUint32)) //nolint:gosec // bounded
}
