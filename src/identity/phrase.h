/* The recovery phrase: 24 words of consonant, vowel, consonant, vowel, for a secret of 32 bytes ‖ the first 4 bytes of
 * H("phrase check", secret). A word has 12 bits, most significant first: consonants bdfghjklmnprstvz (4 bits), vowels
 * aiou (2 bits). Any thread. */
#ifndef CS_IDENTITY_PHRASE_H
#define CS_IDENTITY_PHRASE_H

#include <stdint.h>

#include "base/error.h"

enum { CS_PHRASE_WORDS = 24, CS_PHRASE_TEXT = CS_PHRASE_WORDS * 5 }; /* bytes of the text with its NUL */

/* Words in lower case with one space between them; the caller wipes it. */
void cs_phrase_text(char out[CS_PHRASE_TEXT], const uint8_t secret[32]);

/* The one phrase that a mistyped one can have meant, for a person to confirm. The caller wipes it. */
struct cs_phrase_fix {
    bool found;
    bool swapped;  /* `word` and the next have changed places; otherwise `word` is another one */
    unsigned word; /* 1 … 24 */
    uint8_t secret[32];
};
/* Reads what a person typed, in any case and spacing. CS_ECORRUPT: not that many words, or a check that fails. *fix is
 * set then: found, if exactly one change of one word or one exchange of two neighbours gives a right phrase. Messages
 * name the places of words, never what they are. */
int cs_phrase_parse(uint8_t secret[32], const char *text, struct cs_phrase_fix *fix, struct cs_error *err);

#endif
