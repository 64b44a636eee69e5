package store

import (
	"encoding/json"
	"time"

	"github.com/uptrace/bun"

	"github.com/sluice-mq/sluice/internal/mq"
	"github.com/sluice-mq/sluice/internal/snapshot"
)

// The rows as they stand in the tables; see migrations for their meaning.

type meta struct {
	bun.BaseModel  `bun:"table:meta"`
	ID             int64 `bun:",pk"`
	StoreID        string
	Version        int64
	SetupDone      bool
	SetupHash      []byte
	SetupExpiresMS int64 `bun:"setup_expires_ms"`
}

type clusterRow struct {
	bun.BaseModel  `bun:"table:clusters"`
	Name           string `bun:",pk"`
	Kind           string
	Bootstrap      string // JSON list
	Datacenter     string
	Side           string
	SASLMechanism  string `bun:"sasl_mechanism"`
	SASLUser       string `bun:"sasl_user"`
	SealedPassword []byte
	TLS            bool   `bun:"tls"`
	TLSCA          []byte `bun:"tls_ca"`
	TLSCert        []byte `bun:"tls_cert"`
	SealedKey      []byte
	TLSServerName  string `bun:"tls_server_name"`
	Node           string
	Version        int64
}

func clusterRowOf(c *snapshot.Cluster, version int64) *clusterRow {
	return &clusterRow{
		Name: c.Name, Kind: string(c.Kind), Bootstrap: toJSON(c.Bootstrap), Datacenter: c.Datacenter, Side: c.Side,
		SASLMechanism: c.SASLMechanism, SASLUser: c.SASLUser, SealedPassword: c.SealedPassword,
		TLS: c.TLS, TLSCA: c.TLSCA, TLSCert: c.TLSCert, SealedKey: c.SealedKey, TLSServerName: c.TLSServerName,
		Node: c.Node, Version: version,
	}
}

func (r *clusterRow) cluster() *snapshot.Cluster {
	return &snapshot.Cluster{
		Name: r.Name, Kind: mq.Kind(r.Kind), Bootstrap: fromJSON(r.Bootstrap), Datacenter: r.Datacenter, Side: r.Side,
		SASLMechanism: r.SASLMechanism, SASLUser: r.SASLUser, SealedPassword: r.SealedPassword,
		TLS: r.TLS, TLSCA: r.TLSCA, TLSCert: r.TLSCert, SealedKey: r.SealedKey, TLSServerName: r.TLSServerName,
		Node: r.Node, Version: uint64(r.Version), //nolint:gosec // never negative
	}
}

type topicRow struct {
	bun.BaseModel `bun:"table:topics"`
	Name          string `bun:",pk"`
	Epoch         int64
	OrderMode     string
	Block         int64
	Owner         string
	RateMessages  int64
	RateBytes     int64
	Version       int64
}

type homeRow struct {
	bun.BaseModel `bun:"table:homes"`
	Topic         string `bun:",pk"`
	Place         int64  `bun:",pk"`
	Cluster       string
	Physical      string
	Partitions    int64
}

func topicRowsOf(t *snapshot.Topic, version int64) (*topicRow, []homeRow) {
	r := &topicRow{
		Name: t.Name, Epoch: int64(t.Epoch), OrderMode: t.Order, Block: int64(t.Block), Owner: t.Owner, //nolint:gosec // counts from 1
		RateMessages: t.RateMessages, RateBytes: t.RateBytes, Version: version,
	}
	homes := make([]homeRow, len(t.Homes))
	for i, h := range t.Homes {
		homes[i] = homeRow{Topic: t.Name, Place: int64(i), Cluster: h.Cluster, Physical: string(h.Topic), Partitions: int64(h.Partitions)}
	}
	return r, homes
}

func (r *topicRow) topic() *snapshot.Topic {
	return &snapshot.Topic{
		Name: r.Name, Epoch: uint64(r.Epoch), Order: r.OrderMode, Block: int(r.Block), Owner: r.Owner, //nolint:gosec // never negative
		RateMessages: r.RateMessages, RateBytes: r.RateBytes, Version: uint64(r.Version), //nolint:gosec // never negative
	}
}

func (r *homeRow) home() snapshot.Home {
	return snapshot.Home{Cluster: r.Cluster, Topic: mq.Topic(r.Physical), Partitions: int(r.Partitions)}
}

type groupRow struct {
	bun.BaseModel `bun:"table:consumer_groups"`
	Name          string `bun:",pk"`
	Paused        bool
	Suspended     bool
	Nodes         int64
	Version       int64
}

type subscriptionRow struct {
	bun.BaseModel `bun:"table:subscriptions"`
	ConsumerGroup string `bun:",pk"`
	Topic         string `bun:",pk"`
	OrderMode     int64
	StartAt       string
	MaxAttempts   int64
	BackoffMinMS  int64 `bun:"backoff_min_ms"`
	BackoffMaxMS  int64 `bun:"backoff_max_ms"`
	DrainMS       int64 `bun:"drain_ms"`
	Takeover      string
	Run           int64
}

func groupRowsOf(g *snapshot.Group, version int64) (*groupRow, []subscriptionRow) {
	r := &groupRow{Name: g.Name, Paused: g.Paused, Suspended: g.Suspended, Nodes: int64(g.Nodes), Version: version}
	subs := make([]subscriptionRow, 0, len(g.Subscriptions))
	for topic, s := range g.Subscriptions {
		subs = append(subs, subscriptionRow{
			ConsumerGroup: g.Name, Topic: topic, OrderMode: int64(s.Order), StartAt: s.Start, MaxAttempts: int64(s.MaxAttempts),
			BackoffMinMS: s.BackoffMin.Milliseconds(), BackoffMaxMS: s.BackoffMax.Milliseconds(), DrainMS: s.Drain.Milliseconds(),
			Takeover: s.Takeover, Run: int64(s.Run),
		})
	}
	return r, subs
}

func (r *groupRow) group() *snapshot.Group {
	return &snapshot.Group{
		Name: r.Name, Paused: r.Paused, Suspended: r.Suspended, Nodes: int(r.Nodes), Version: uint64(r.Version), //nolint:gosec // never negative
		Subscriptions: map[string]snapshot.Settings{},
	}
}

func (r *subscriptionRow) settings() snapshot.Settings {
	return snapshot.Settings{
		Order: snapshot.Order(r.OrderMode), Start: r.StartAt, MaxAttempts: int(r.MaxAttempts),
		BackoffMin: ms(r.BackoffMinMS), BackoffMax: ms(r.BackoffMaxMS), Drain: ms(r.DrainMS), Takeover: r.Takeover, Run: int(r.Run),
	}
}

type tokenRow struct {
	bun.BaseModel `bun:"table:tokens"`
	ID            string `bun:",pk"`
	Hash          []byte
	App           string
	Kind          string
	CreatedMS     int64 `bun:"created_ms"`
	ExpiresMS     int64 `bun:"expires_ms"`
}

type receiptKeyRow struct {
	bun.BaseModel `bun:"table:receipt_keys"`
	ID            int64 `bun:",pk"`
	Sealed        []byte
	CreatedMS     int64 `bun:"created_ms"`
}

type nodeRow struct {
	bun.BaseModel `bun:"table:nodes"`
	Name          string `bun:",pk"`
	GRPC          string `bun:"grpc"`
	HTTP          string `bun:"http"`
	Datacenter    string
	Build         string
	Roles         string // JSON list
	Draining      bool
	Alive         bool
	LastSeenMS    int64 `bun:"last_seen_ms"`
}

func ms(n int64) time.Duration { return time.Duration(n) * time.Millisecond }

func timeOf(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.UnixMilli(n).UTC()
}

func msOf(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func toJSON(list []string) string {
	if list == nil {
		list = []string{}
	}
	b, _ := json.Marshal(list) // strings always encode
	return string(b)
}

func fromJSON(s string) []string {
	var list []string
	if json.Unmarshal([]byte(s), &list) != nil || len(list) == 0 {
		return nil
	}
	return list
}
