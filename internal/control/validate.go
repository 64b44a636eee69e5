package control

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/mq"
	"github.com/sluice-mq/sluice/internal/snapshot"
)

// maxName is the longest name, in bytes: what SQL, logs, metrics and addresses of pages carry without trouble.
const maxName = 255

// checkName takes any readable name: slashes, dots and letters of every language are fine.
func checkName(what, name string) error {
	switch {
	case name == "":
		return fault.New(fault.InvalidArgument, "the %s has no name; give one", what)
	case len(name) > maxName:
		return fault.New(fault.InvalidArgument, "%s %.40q...: the name has %d bytes, at most %d are allowed", what, name, len(name), maxName)
	case !utf8.ValidString(name):
		return fault.New(fault.InvalidArgument, "%s %q: the name is not UTF-8", what, name)
	case strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }):
		return fault.New(fault.InvalidArgument, "%s %q: the name holds characters that cannot be seen; leave them out", what, name)
	case strings.TrimSpace(name) != name:
		return fault.New(fault.InvalidArgument, "%s %q: the name begins or ends with a space; leave it out", what, name)
	}
	return nil
}

// plainName is what names of clusters and nodes are made of: they stand in command lines, metrics and file names.
var plainName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$`)

func checkPlainName(what, name string) error {
	if !plainName.MatchString(name) {
		return fault.New(fault.InvalidArgument, "%s name %.120q: use 1 to 100 letters, digits, dots, dashes and underscores, beginning with a letter or digit", what, name)
	}
	return nil
}

// checkAddress takes host:port, nothing else: no scheme, no user, no path.
func checkAddress(what, addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err == nil && host != "" && !strings.ContainsAny(host, "/@ \t\r\n#?%,=") {
		if n, err := strconv.ParseUint(port, 10, 16); err == nil && n > 0 {
			return nil
		}
	}
	return fault.New(fault.InvalidArgument, "%s: address %.200q is not host:port (for example kafka-1.example:9092)", what, addr)
}

const maxBootstrap = 50

func checkClusterSpec(c *ClusterSpec) error {
	if err := checkPlainName("cluster", c.Name); err != nil {
		return err
	}
	switch c.Kind {
	case mq.Kafka, mq.RocketMQ:
	case mq.Embedded:
		return fault.New(fault.InvalidArgument, "cluster %q: the embedded cluster is registered by its node at the first start; choose kind kafka or rocketmq", c.Name)
	default:
		return fault.New(fault.InvalidArgument, "cluster %q: kind %q is unknown; choose kafka or rocketmq", c.Name, c.Kind)
	}
	if len(c.Bootstrap) == 0 || len(c.Bootstrap) > maxBootstrap {
		return fault.New(fault.InvalidArgument, "cluster %q: %d bootstrap addresses; give 1 to %d", c.Name, len(c.Bootstrap), maxBootstrap)
	}
	for _, a := range c.Bootstrap {
		if err := checkAddress("cluster "+strconv.Quote(c.Name), a); err != nil {
			return err
		}
	}
	for what, label := range map[string]string{"datacenter": c.Datacenter, "side": c.Side} {
		if label != "" {
			if err := checkName(what, label); err != nil {
				return err
			}
		}
	}
	return checkCredentials(c)
}

func checkCredentials(c *ClusterSpec) error {
	mechanisms := []string{"", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"}
	switch {
	case !slices.Contains(mechanisms, c.SASLMechanism):
		return fault.New(fault.InvalidArgument, "cluster %q: SASL mechanism %q is unknown; choose PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512", c.Name, c.SASLMechanism)
	case c.SASLMechanism != "" && (c.SASLUser == "" || c.SASLPassword.IsZero()):
		return fault.New(fault.InvalidArgument, "cluster %q: SASL %s needs a user and a password", c.Name, c.SASLMechanism)
	case c.SASLMechanism == "" && (c.SASLUser != "" || !c.SASLPassword.IsZero()):
		return fault.New(fault.InvalidArgument, "cluster %q: a SASL user or password without a mechanism; choose PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512", c.Name)
	case !c.TLS && (len(c.TLSCA)+len(c.TLSCert) > 0 || !c.TLSKey.IsZero() || c.TLSServerName != ""):
		return fault.New(fault.InvalidArgument, "cluster %q: TLS settings without TLS; switch it on", c.Name)
	case len(c.TLSCA) > 0 && !x509.NewCertPool().AppendCertsFromPEM(c.TLSCA):
		return fault.New(fault.InvalidArgument, "cluster %q: the TLS CA holds no certificate in PEM form", c.Name)
	case (len(c.TLSCert) > 0) != !c.TLSKey.IsZero():
		return fault.New(fault.InvalidArgument, "cluster %q: a client certificate and its key come together", c.Name)
	}
	if len(c.TLSCert) > 0 {
		if _, err := tls.X509KeyPair(c.TLSCert, []byte(c.TLSKey.Reveal())); err != nil {
			return fault.New(fault.InvalidArgument, "cluster %q: the client certificate and its key do not fit, or are not PEM", c.Name)
		}
	}
	return nil
}

// Bounds of what a subscription may state.
const (
	maxAttempts = 1000
	maxBackoff  = 24 * time.Hour
	maxDrain    = 5 * time.Minute
	maxRun      = 1000
)

func checkSettings(topic string, s snapshot.Settings) error {
	bad := func(format string, args ...any) error {
		f := fault.New(fault.InvalidArgument, format, args...)
		f.Text = "subscription to " + strconv.Quote(topic) + ": " + f.Text
		return f
	}
	full := s.WithDefaults()
	switch {
	case s.Order < snapshot.OrderUnset || s.Order > snapshot.OrderPartition:
		return bad("order %d is unknown; choose none, key or partition", s.Order)
	case s.MaxAttempts < 0 || s.MaxAttempts > maxAttempts:
		return bad("%d attempts; choose 1 to %d", s.MaxAttempts, maxAttempts)
	case s.BackoffMin < 0 || s.BackoffMax < 0 || s.BackoffMin > maxBackoff || s.BackoffMax > maxBackoff:
		return bad("back-off %v to %v; choose at most %v", s.BackoffMin, s.BackoffMax, maxBackoff)
	case full.BackoffMin > full.BackoffMax:
		return bad("the least back-off %v is longer than the greatest %v", full.BackoffMin, full.BackoffMax)
	case s.Drain < 0 || s.Drain > maxDrain:
		return bad("drain %v; choose at most %v", s.Drain, maxDrain)
	case s.Takeover != "" && s.Takeover != "deliver" && s.Takeover != "wait_lease":
		return bad("takeover %q is unknown; choose deliver or wait_lease", s.Takeover)
	case s.Run < 0 || s.Run > maxRun:
		return bad("runs of %d; choose 1 to %d", s.Run, maxRun)
	}
	if _, err := parseStart(full.Start); err != nil {
		return bad("start %q is none of earliest, latest, or a time like 2026-11-25T12:00:00Z", s.Start)
	}
	return nil
}

// parseStart reads earliest, latest or an RFC 3339 time.
func parseStart(s string) (mq.Start, error) {
	switch s {
	case "earliest", "":
		return mq.Start{At: mq.Earliest}, nil
	case "latest":
		return mq.Start{At: mq.Latest}, nil
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return mq.Start{}, err
	}
	return mq.Start{At: mq.AtTime, Time: t}, nil
}

// checkOrder takes a topic's order mode; "" stands for none.
func checkOrder(topic, order string) error {
	switch order {
	case "", "none", "available", "strict":
		return nil
	}
	return fault.New(fault.InvalidArgument, "topic %q: order %q is unknown; choose none, available or strict", topic, order)
}
