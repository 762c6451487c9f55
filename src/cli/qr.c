#include <qrencode.h>
#include <stdio.h>
#include <unistd.h>

#include "cli/cli.h"

enum { MARGIN = 4 };

static bool dark(const QRcode *q, int x, int y)
{
    return x >= 0 && y >= 0 && x < q->width && y < q->width && (q->data[y * q->width + x] & 1) != 0;
}

bool cs_cli_qr(const char *text)
{
    static const char *const blocks[] = { "\u2588", "\u2580", "\u2584", " " }; /* light above and below; above; below */
    bool colors = isatty(STDOUT_FILENO) == 1;
    QRcode *q = QRcode_encodeString8bit(text, 0, QR_ECLEVEL_L);

    if (q == NULL)
        return false;
    for (int y = -MARGIN; y < q->width + MARGIN; y += 2) {
        if (colors)
            fputs("\033[97;40m", stdout); /* whatever the terminal's own colours are */
        for (int x = -MARGIN; x < q->width + MARGIN; x++)
            fputs(blocks[dark(q, x, y) * 2 + dark(q, x, y + 1)], stdout);
        puts(colors ? "\033[0m" : "");
    }
    QRcode_free(q);
    return true;
}
