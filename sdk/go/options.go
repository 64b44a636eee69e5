package sluice

import (
	"context"
	"crypto/tls"
	"log/slog"
	"time"

	"google.golang.org/grpc"
)

// Option changes how Connect connects.
type Option func(*options)

type options struct {
	token   string
	tls     *tls.Config
	log     *slog.Logger
	hooks   Hooks
	dial    []grpc.DialOption
	refresh time.Duration
}

// Token sends an app's token with every call. Without TLS it travels in the clear: use it so on the loopback only.
func Token(token string) Option { return func(o *options) { o.token = token } }

// TLS connects by TLS. Without it connections are in the clear.
func TLS(config *tls.Config) Option { return func(o *options) { o.tls = config } }

// Logger takes the client's log: connections lost and found, failures that no caller sees. The default is silence.
func Logger(log *slog.Logger) Option { return func(o *options) { o.log = log } }

// WithHooks reports what the client does, for metrics and traces.
func WithHooks(h Hooks) Option { return func(o *options) { o.hooks = h } }

// DialOptions adds options of grpc-go to every connection, after the client's own: a dialer of one's own, or
// interceptors. The in-memory fake of package sluicetest connects this way.
func DialOptions(opts ...grpc.DialOption) Option {
	return func(o *options) { o.dial = append(o.dial, opts...) }
}

// RefreshNodes sets how often the list of nodes is asked for again; 0: 30 s.
func RefreshNodes(every time.Duration) Option { return func(o *options) { o.refresh = every } }

// Hooks are called as things happen, from the client's own goroutines: they must be quick and must not call back into
// the client. Each may be nil. They may be called from several goroutines at once.
type Hooks struct {
	// OnPublish is called for each message's one result.
	OnPublish func(PublishEvent)
	// OnDeliver is called for each message that is handed to the application.
	OnDeliver func(DeliverEvent)
	// OnSettle is called when a settlement was answered.
	OnSettle func(SettleEvent)
	// OnReconnect is called when a publisher or a receiver lost its node, or was asked to leave it.
	OnReconnect func(ReconnectEvent)
	// Inject adds trace context (traceparent, tracestate) to a message's headers; ctx is the publish call's.
	Inject func(ctx context.Context, set func(name, value string))
	// Extract gives the handler's context what a message's headers carry.
	Extract func(ctx context.Context, get func(name string) string) context.Context
}

// PublishEvent tells of a finished message.
type PublishEvent struct {
	Topic  string
	Result Result
	Took   time.Duration
}

// DeliverEvent tells of a message handed to the application.
type DeliverEvent struct {
	Group    string
	Delivery *Delivery
}

// SettleEvent tells of an answered settlement.
type SettleEvent struct {
	Group    string
	Delivery *Delivery
	// Action is "accept", "release", "reject", "renew" or "return".
	Action string
	Err    error
}

// ReconnectEvent tells of a node that was left.
type ReconnectEvent struct {
	// Topic of a publisher or Group of a receiver; one is empty.
	Topic, Group string
	Node         string
	Err          error // nil: the node asked for it
}

// PublisherOption changes a publisher.
type PublisherOption func(*publisherOptions)

type publisherOptions struct {
	linger           time.Duration
	batchBytes       int
	batchMessages    int
	timeout          time.Duration
	durability       Durability
	bufferedBytes    int
	bufferedMessages int
	producer         string
}

// Linger is how long a message waits for others to share its frame; default 2 ms. A message that finds nothing
// queued and nothing out leaves at once.
func Linger(d time.Duration) PublisherOption { return func(o *publisherOptions) { o.linger = d } }

// MaxBatch limits a frame; defaults 64 KiB and 1,000 messages (also the most). A larger message travels alone.
func MaxBatch(bytes, messages int) PublisherOption {
	return func(o *publisherOptions) { o.batchBytes, o.batchMessages = bytes, messages }
}

// Timeout is how long a message may take from the call to its result, retries included; default 10 s, at most 60 s. A
// context that ends earlier shortens it.
func Timeout(d time.Duration) PublisherOption { return func(o *publisherOptions) { o.timeout = d } }

// WithDurability says what counts as stored; default Replicated.
func WithDurability(d Durability) PublisherOption {
	return func(o *publisherOptions) { o.durability = d }
}

// MaxBuffered limits what a publisher holds without a result; defaults 32 MiB and 10,000 messages. At the limit Publish waits.
func MaxBuffered(bytes, messages int) PublisherOption {
	return func(o *publisherOptions) { o.bufferedBytes, o.bufferedMessages = bytes, messages }
}

// ProducerName names the publisher; with the sequences it places un-keyed messages. The default is unique. Two living
// publishers must not share a name.
func ProducerName(name string) PublisherOption {
	return func(o *publisherOptions) { o.producer = name }
}
