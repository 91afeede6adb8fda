// The driver behind the Go recipes of docs/clients.md: logs what tests/clients asks for, with zap or zerolog.
//
// The test builds it with inlet.go, zap.go and zerolog.go, which it extracts from the page.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"log"
	"os"
	"strconv"
	"strings"

	"go.uber.org/zap"
)

func number(name string) int {
	value, err := strconv.Atoi(os.Getenv(name))
	if err != nil {
		log.Fatalf("%s: %v", name, err)
	}
	return value
}

func main() {
	inlet := Inlet{URL: os.Getenv("INLET_URL"), Key: os.Getenv("INLET_KEY")}
	members := map[string]any{}
	decoder := json.NewDecoder(strings.NewReader(os.Getenv("MEMBERS")))
	decoder.UseNumber()
	if err := decoder.Decode(&members); err != nil {
		log.Fatal(err)
	}
	for name, value := range members {
		if digits, ok := value.(json.Number); ok {
			if whole, err := digits.Int64(); err == nil {
				members[name] = whole
			} else if members[name], err = digits.Float64(); err != nil {
				log.Fatal(err)
			}
		}
	}
	var emit func(text string, number int)
	var end func()
	failure := errors.New("failed")
	if os.Getenv("LOGGER") == "zap" {
		logger := newZap(inlet)
		fields := []zap.Field{}
		for name, value := range members {
			fields = append(fields, zap.Any(name, value))
		}
		emit = func(text string, number int) { logger.Info(text, append(fields, zap.Int("number", number))...) }
		end = func() {
			if os.Getenv("FAILURE") != "" {
				logger.Error("failed", zap.Error(failure))
			}
			if err := logger.Sync(); err != nil {
				log.Fatal(err)
			}
		}
	} else {
		logger := newZerolog(inlet)
		emit = func(text string, number int) { logger.Info().Fields(members).Int("number", number).Msg(text) }
		end = func() {
			if os.Getenv("FAILURE") != "" {
				logger.Error().Err(failure).Msg("failed")
			}
		}
	}
	pauseAt := number("PAUSE_AT")
	for count, records := 0, number("RECORDS"); count < records; count++ {
		if count > 0 && count == pauseAt {
			if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
				log.Fatal(err)
			}
		}
		emit("m-"+strconv.Itoa(count)+os.Getenv("SUFFIX"), count)
	}
	end()
}
