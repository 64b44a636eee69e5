package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluice-mq/sluice/internal/config"
	"github.com/sluice-mq/sluice/sdk/go"
	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
)

// usageError is a wrong command line: exit code 2.
type usageError struct{ text string }

// Error implements error.
func (e usageError) Error() string { return e.text }

func usage(format string, args ...any) error { return usageError{fmt.Sprintf(format, args...)} }

// isUsage also knows cobra's own errors, which have no type.
func isUsage(err error) bool {
	if _, ok := errors.AsType[usageError](err); ok {
		return true
	}
	text := err.Error()
	for _, begin := range []string{"unknown command", "unknown flag", "required flag", "if any flags in the group"} {
		if strings.HasPrefix(text, begin) {
			return true
		}
	}
	return false
}

// quietError ends with an exit code when everything was said already.
type quietError struct{ code int }

// Error implements error.
func (e quietError) Error() string { return fmt.Sprintf("exit %d", e.code) }

// args checks the number of arguments and says which are missing. names are as in the usage line: "TOPIC [BODY]".
func args(least, most int, names string) cobra.PositionalArgs {
	return func(c *cobra.Command, got []string) error {
		if len(got) < least || most >= 0 && len(got) > most {
			return usage("%s: takes %s, got %d arguments; see `%s --help`", c.CommandPath(), names, len(got), c.CommandPath())
		}
		return nil
	}
}

// printError writes one line per error: "error: <what> <which>: <why>; <what to do>".
func printError(w io.Writer, err error) {
	if faults, ok := errors.AsType[config.Faults](err); ok {
		for _, f := range faults {
			printLine(w, f.Error())
		}
		return
	}
	printLine(w, describe(err))
}

func printLine(w io.Writer, text string) {
	text = strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
	fmt.Fprintf(w, "error: %s\n", text)
}

// withCause adds what the client heard last, where it gave up for want of time: that is why there was no result.
func withCause(e *sluice.Error) string {
	if last, ok := errors.AsType[*sluice.Error](e.Cause); ok && last.Message != "" {
		return e.Message + "; the last answer: " + last.Message
	}
	return e.Message
}

// describe is the text of an error for people: servers answer with a text that says what to do already.
func describe(err error) string {
	var se *sluice.Error
	if errors.As(err, &se) && se.Message != "" {
		return prefixOf(err, se.Error()) + plainConnection(withCause(se))
	}
	var g interface {
		error
		GRPCStatus() *status.Status
	}
	if errors.As(err, &g) && g.GRPCStatus().Code() != codes.OK {
		if text := serverText(g.GRPCStatus()); text != "" {
			return text // the server named what and which
		}
		return prefixOf(err, g.Error()) + statusText(g.GRPCStatus())
	}
	return err.Error()
}

// prefixOf is what was wrapped around an error, such as "topic orders: ".
func prefixOf(err error, inner string) string {
	if i := strings.Index(err.Error(), inner); i > 0 {
		return err.Error()[:i]
	}
	return ""
}

// serverText is the text that a node of Sluice gave, "" where there is none.
func serverText(st *status.Status) string {
	for _, d := range st.Details() {
		if e, ok := d.(*sluicev1.Error); ok {
			return e.GetMessage()
		}
	}
	return ""
}

func statusText(st *status.Status) string {
	switch st.Code() {
	case codes.Unavailable:
		return plainConnection(st.Message())
	case codes.Unauthenticated:
		return st.Message() + "; give --token or SLUICE_TOKEN"
	case codes.Unimplemented:
		return st.Message() + "; the server is of another release or has not the role for this"
	default:
		return st.Message()
	}
}

// plainConnection says a failed connection without gRPC's words around it.
func plainConnection(text string) string {
	_, cause, ok := strings.Cut(text, "Error while dialing: ")
	if !ok {
		return text
	}
	cause = strings.TrimPrefix(strings.Trim(cause, `"`), "dial tcp ")
	return "server " + strings.Replace(cause, ": connect: ", ": ", 1) + "; is it running, and is --server its gRPC address?"
}

// isCancelled tells whether an error came of our own context's end.
func isCancelled(err error) bool {
	return errors.Is(err, sluice.ReasonCancelled) || status.Code(err) == codes.Canceled
}
